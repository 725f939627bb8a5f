"""Find the accounts that requests name, by program and member: many at once, only what an operation on points needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from issuer.ids import parse_uuid
from issuer.loyalty.member import MemberNotFoundError
from issuer.loyalty.named_programs import ProgramName, find_named_programs
from issuer.loyalty.program import Program
from issuer.storage.postgres import AnyConnection

# A merged member resolves to its target, which is never merged itself; hardly any member is merged, and null is looked
# up in no index. Ids and refs have a branch, so an index, each.
_FIND: Final = """
SELECT named.place, a.id AS account_id
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[]) WITH ORDINALITY
  AS named (program_id, client_id, member_id, ref, place)
CROSS JOIN LATERAL (
  SELECT id, merged_into, erased_at FROM members WHERE id = named.member_id AND client_id = named.client_id
  UNION ALL SELECT id, merged_into, erased_at FROM members WHERE client_id = named.client_id AND ref = named.ref
) AS given
LEFT JOIN members target ON target.id = given.merged_into
JOIN accounts a ON a.member_id = coalesce(given.merged_into, given.id) AND a.program_id = named.program_id
WHERE CASE WHEN given.merged_into IS NULL THEN given.erased_at ELSE target.erased_at END IS NULL"""


class AccountName(NamedTuple):
    """What names an account: its program, and the id or ref of a member."""

    program: ProgramName
    member: str


@dataclass(frozen=True, slots=True)
class NamedAccount:
    """A program, and the account there of a member."""

    program: Program
    found_id: int | None

    @property
    def id(self) -> int:
        """The account. Raises MemberNotFoundError: the program has no such member, or it is erased."""
        if self.found_id is None:
            raise MemberNotFoundError
        return self.found_id


async def find_named_accounts(
    connection: AnyConnection, names: Sequence[AccountName]
) -> dict[AccountName, NamedAccount | Exception]:
    """Return the account of each name, or why its program is not found: see `find_named_programs`."""
    programs = await find_named_programs(connection, {name.program for name in names})
    found: dict[AccountName, NamedAccount | Exception] = {}
    wanted, values = [], []
    for name in names:
        program = programs[name.program]
        if isinstance(program, Exception):
            found[name] = program
            continue
        member_id = parse_uuid(name.member)
        ref = name.member if member_id is None and "\0" not in name.member else None
        wanted.append((name, program))
        values.append((program.id, program.client_id, member_id, ref))
    if wanted:
        rows = await connection.fetch(_FIND, *zip(*values, strict=True))
        ids = {row["place"]: row["account_id"] for row in rows}
        for place, (name, program) in enumerate(wanted, 1):
            found[name] = NamedAccount(program, ids.get(place))
    return found

"""Create, change and find members, and open their accounts. `members` is the one place with their personal data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.ids import parse_uuid
from issuer.loyalty.account import AccountState, open_account
from issuer.loyalty.balances import read_balance
from issuer.loyalty.hooks.customer_keys import customer_keys
from issuer.loyalty.hooks.inbox import release_for_member
from issuer.loyalty.member import (
    InvalidMemberError,
    Member,
    MemberExistsError,
    MemberNotFoundError,
    fold_email,
    member_from_row,
    member_values,
)
from issuer.loyalty.program import Program
from issuer.loyalty.traces import leave_old_names
from issuer.sessions.session_store import LoginSession, SessionKind, end_sessions
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

# Cards of a member that was merged lead to its target.
PROGRAM_MEMBER: Final = f"""
SELECT {", ".join(f"m.{column.name}" for column in fields(Member))}, a.id AS account_id, ARRAY(
  SELECT c.number FROM accounts ca JOIN cards c ON c.account_id = ca.id AND c.revoked_at IS NULL
  WHERE ca.program_id = a.program_id
    AND ca.member_id IN (SELECT m.id UNION ALL SELECT x.id FROM members x WHERE x.merged_into = m.id)
  ORDER BY c.id) AS cards"""
"""What is selected of a member m and its account a."""


@dataclass(frozen=True, slots=True)
class ProgramMember:
    """A member of a program, its account there, and the numbers of its cards that are not revoked."""

    member: Member
    account_id: int
    cards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberWithBalance(ProgramMember):
    """A member of a program with the balance of its account."""

    balance: AccountState

    @classmethod
    def of(cls, found: ProgramMember, balance: AccountState) -> MemberWithBalance:
        return cls(found.member, found.account_id, found.cards, balance)


_INSERT: Final = """
INSERT INTO members (id, client_id, ref, email, email_folded, phone, name, locale, marketing, marketing_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $10 THEN now() END) ON CONFLICT DO NOTHING"""

_TAKEN: Final = """
SELECT id, coalesce(ref = $2, false) AS by_ref FROM members
WHERE client_id = $1 AND (ref = $2 OR email_folded = $3) AND id <> $4 ORDER BY by_ref DESC LIMIT 1"""

# The time of the consent is that of its statement, also if it says the same again.
_UPDATE: Final = """
UPDATE members SET ref = $2, email = $3, email_folded = $4, phone = $5, name = $6, locale = $7, marketing = $8,
  marketing_at = CASE WHEN $9 THEN now() ELSE marketing_at END WHERE id = $1"""

_ONE_PERSON: Final = "SELECT id FROM members WHERE id = $1 OR merged_into = $1"

_READ: Final = "SELECT * FROM members WHERE id = $1"

# A merged member resolves to its target, which is never merged itself.
_FIND: Final = f"""
{PROGRAM_MEMBER}
FROM members given JOIN members m ON m.id = coalesce(given.merged_into, given.id)
JOIN accounts a ON a.program_id = $1 AND a.member_id = m.id
WHERE given.client_id = $2 AND (given.id = $3 OR given.ref = $4)"""

_FIND_OF_CLIENT: Final = """
SELECT m.* FROM members given JOIN members m ON m.id = coalesce(given.merged_into, given.id)
WHERE given.client_id = $1 AND (given.id = $2 OR given.ref = $3 OR given.email_folded = $4)"""


async def create_member(
    postgres: Pool, program: Program, values: Mapping[str, Any], *, actor: str, act: Act[MemberWithBalance] = UNKEPT
) -> MemberWithBalance:
    """Create a member of a program's client, with an account in the program.

    Raises InvalidMemberError, MemberExistsError, PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        created = await create_member_in(connection, program, values, actor=actor)
        await act.keep(connection, created)
    return created


async def create_member_in(
    connection: AnyConnection, program: Program, values: Mapping[str, Any], *, actor: str
) -> MemberWithBalance:
    """Create a member in the caller's transaction. Raises InvalidMemberError, MemberExistsError."""
    given = member_values(values)
    if all(given.get(name) is None for name in ("ref", "email", "phone", "name")):
        raise InvalidMemberError("a member needs at least one of ref, email, phone and name")
    member_id, ref, folded = uuid4(), given.get("ref"), given.get("email_folded")
    columns = (given.get(name) for name in ("email", "email_folded", "phone", "name", "locale"))
    status = await connection.execute(
        _INSERT, member_id, program.client_id, ref, *columns, given.get("marketing", False), "marketing" in given
    )
    if status == "INSERT 0 0":
        await _check_free(connection, program.client_id, ref, folded, member_id)
        # Who had them was erased meanwhile.
        raise MemberExistsError("ref or email")
    member = await _read(connection, member_id)
    await _record(connection, member, "member.create", actor, {"program": str(program.id), "set": sorted(given)})
    account_id = await open_account(connection, program, member_id)
    await release_for_member(connection, customer_keys(member.client_id, email=member.email, ref=ref), member_id)
    return MemberWithBalance(member, account_id, (), AccountState(account_id))


async def join_program(
    postgres: Pool, program: Program, given: str, *, actor: str, act: Act[MemberWithBalance] = UNKEPT
) -> MemberWithBalance:
    """Open the account of a member of the client in another program of it; a repeat changes nothing.

    `given`: id or ref of the member. Raises MemberNotFoundError, PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        member = await find_member_of_client(connection, program.client_id, given)
        if member.erased_at is not None:
            raise MemberNotFoundError
        account_id = await open_account(connection, program, member.id)
        balance = await read_balance(connection, program, account_id)
        joined = MemberWithBalance.of(await find_member(connection, program, str(member.id)), balance)
        await act.keep(connection, joined)
    return joined


async def change_member(
    postgres: Pool,
    program: Program,
    found: ProgramMember,
    values: Mapping[str, Any],
    *,
    actor: str,
    session: LoginSession | None = None,
    act: Act[MemberWithBalance] = UNKEPT,
) -> MemberWithBalance:
    """Change what is given of a member; null removes a value. The audit log names the fields, not what they have.

    Another e-mail address ends the sessions that the old one has begun, except for `session`, which asks for it.
    Raises InvalidMemberError, MemberExistsError, MemberNotFoundError (erased), PostgresUnavailableError.
    """
    given = member_values(values)
    async with act.transaction(postgres) as connection:
        await connection.execute("SELECT FROM members WHERE id = $1 FOR NO KEY UPDATE", found.member.id)
        before = await _read(connection, found.member.id)
        if before.erased_at is not None:
            raise MemberNotFoundError
        after = replace(before, **{name: value for name, value in given.items() if name != "email_folded"})
        if after != before or "marketing" in given:
            await leave_old_names(connection, before, after)
            await _update(connection, after, says_marketing="marketing" in given)
            await _record(connection, after, "member.change", actor, {"set": sorted(given)})
            await release_for_member(
                connection, customer_keys(after.client_id, email=after.email, ref=after.ref), after.id
            )
        if after.email != before.email:
            people = await connection.fetch(_ONE_PERSON, after.id)
            await end_sessions(connection, SessionKind.MEMBER, [str(row["id"]) for row in people], but=session)
        balance = await read_balance(connection, program, found.account_id)
        changed = MemberWithBalance(await _read(connection, before.id), found.account_id, found.cards, balance)
        await act.keep(connection, changed)
    return changed


async def find_member(postgres: Pool | AnyConnection, program: Program, given: str) -> ProgramMember:
    """Return a member of a program by its id or ref; of a merged one, the member that it was merged into.

    Raises MemberNotFoundError, PostgresUnavailableError.
    """
    member_id = parse_uuid(given)
    ref = given if member_id is None and "\0" not in given else None
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, program.id, program.client_id, member_id, ref)
    if row is None:
        raise MemberNotFoundError
    return program_member_from_row(row)


async def find_member_of_client(
    postgres: Pool | AnyConnection, client_id: UUID, given: str | None = None, *, email_folded: str | None = None
) -> Member:
    """Return a member of a client, in whatever program, by its id or ref, or by its folded e-mail.

    Raises MemberNotFoundError, PostgresUnavailableError.
    """
    member_id = None if given is None else parse_uuid(given)
    ref = given if given is not None and member_id is None and "\0" not in given else None
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND_OF_CLIENT, client_id, member_id, ref, email_folded)
    if row is None:
        raise MemberNotFoundError
    return member_from_row(row)


async def point_to_target(connection: AnyConnection, source_id: UUID, target_id: UUID) -> None:
    """Make a member, and all that were merged into it, resolve to another one: the last step of a merge."""
    await connection.execute(
        "UPDATE members SET merged_into = $2 WHERE id = $1 OR merged_into = $1", source_id, target_id
    )


def program_member_from_row(row: asyncpg.Record) -> ProgramMember:
    """Return the member of a row of PROGRAM_MEMBER."""
    return ProgramMember(member_from_row(row), row["account_id"], tuple(row["cards"]))


async def _update(connection: AnyConnection, after: Member, *, says_marketing: bool) -> None:
    folded = None if after.email is None else fold_email(after.email)
    # First: Postgres logs what violates a constraint, with the address.
    await _check_free(connection, after.client_id, after.ref, folded, after.id)
    try:
        await connection.execute(
            _UPDATE, after.id, after.ref, after.email, folded, after.phone, after.name, after.locale, after.marketing,
            says_marketing,
        )  # fmt: skip
    except asyncpg.UniqueViolationError as error:
        raise MemberExistsError("email" if "email" in str(error.constraint_name) else "ref") from error


async def _check_free(
    connection: AnyConnection, client_id: UUID, ref: str | None, folded: str | None, member_id: UUID
) -> None:
    """Raise MemberExistsError if a member of the client other than this one has the ref or the address."""
    row = await connection.fetchrow(_TAKEN, client_id, ref, folded, member_id)
    if row is not None:
        raise MemberExistsError("ref" if row["by_ref"] else "email", row["id"])


async def _read(connection: AnyConnection, member_id: UUID) -> Member:
    row = await connection.fetchrow(_READ, member_id)
    assert row is not None
    return member_from_row(row)


async def _record(
    connection: AnyConnection, member: Member, action: str, actor: str, detail: Mapping[str, Any]
) -> None:
    """Write an entry of the audit log: which fields were set, never their values."""
    await audit.record(connection, actor=actor, action=action, subject=f"member:{member.id}", detail=detail)

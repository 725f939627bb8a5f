"""Find programs by their names or ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from issuer.ids import parse_uuid
from issuer.loyalty.program import Program, ProgramNotFoundError
from issuer.loyalty.program_store import PROGRAMS, program_from_row
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

# A program that has not ended comes first; a client has at most one of a name. Of those that ended, the newest. Each
# kind of name has a branch of its own, so that each has an index.
_FIND: Final = f"""
SELECT named.place, found.*
FROM unnest($1::uuid[], $2::text[], $3::uuid[]) WITH ORDINALITY AS named (id, name, client_id, place)
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (one.client_id) one.* FROM (
    {PROGRAMS} WHERE p.id = named.id AND (named.client_id IS NULL OR p.client_id = named.client_id)
    UNION ALL {PROGRAMS} WHERE p.client_id = named.client_id AND p.name = named.name
    UNION ALL {PROGRAMS} WHERE named.client_id IS NULL AND p.name = named.name
  ) AS one ORDER BY one.client_id, one.state = 'ended', one.created_at DESC LIMIT 21
) AS found ORDER BY named.place, found.client_id"""


class AmbiguousProgramError(Exception):
    """Programs of several clients have this name; `ids` has up to 20 of them."""

    def __init__(self, ids: list[str]) -> None:
        super().__init__("several clients have a program with this name")
        self.ids = ids


class ProgramName(NamedTuple):
    """What names a program: its id or its name; with `client_id` only one of that client."""

    given: str
    client_id: UUID | None = None


async def find_named_programs(
    connection: Pool | AnyConnection, names: Iterable[ProgramName]
) -> dict[ProgramName, Program | Exception]:
    """Return the program of each name, or why there is none: ProgramNotFoundError, AmbiguousProgramError."""
    wanted = list(names)
    ids = [parse_uuid(name.given) for name in wanted]
    are_names = [id_ is None and "\0" not in name.given for name, id_ in zip(wanted, ids, strict=True)]
    texts = [name.given if is_name else None for name, is_name in zip(wanted, are_names, strict=True)]
    rows: dict[int, list[asyncpg.Record]] = {}
    for row in await connection.fetch(_FIND, ids, texts, [name.client_id for name in wanted]):
        rows.setdefault(row["place"], []).append(row)
    return {name: _chosen(rows.get(place, [])) for place, name in enumerate(wanted, 1)}


async def find_named_program(postgres: Pool, given: str, *, client_id: UUID | None = None) -> Program:
    """Return a program by its id or its name; with `client_id` only one of that client.

    Raises ProgramNotFoundError, AmbiguousProgramError (of several clients), PostgresUnavailableError.
    """
    async with unavailable_translated():
        (found,) = (await find_named_programs(postgres, [ProgramName(given, client_id)])).values()
    if isinstance(found, Exception):
        raise found
    return found


def _chosen(rows: list[asyncpg.Record]) -> Program | Exception:
    if not rows:
        return ProgramNotFoundError()
    if len(rows) > 1:
        return AmbiguousProgramError([str(row["id"]) for row in rows[:20]])
    return program_from_row(rows[0])

"""Find a program by its name or its id."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from issuer.ids import parse_uuid
from issuer.loyalty.program import Program, ProgramNotFoundError
from issuer.loyalty.program_store import PROGRAMS, find_program, program_from_row
from issuer.storage.postgres import Pool, unavailable_translated

# A program that has not ended comes first; a client has at most one of a name. Of those that ended, the newest.
_BY_NAME: Final = f"""
SELECT DISTINCT ON (found.client_id) found.* FROM ({PROGRAMS}
  WHERE p.name = $1 AND ($2::uuid IS NULL OR p.client_id = $2)) found
ORDER BY found.client_id, found.state = 'ended', found.created_at DESC LIMIT 21"""


class AmbiguousProgramError(Exception):
    """Programs of several clients have this name; `ids` has up to 20 of them."""

    def __init__(self, ids: list[str]) -> None:
        super().__init__("several clients have a program with this name")
        self.ids = ids


async def find_named_program(postgres: Pool, given: str, *, client_id: UUID | None = None) -> Program:
    """Return a program by its id or its name; with `client_id` only one of that client.

    Raises ProgramNotFoundError, AmbiguousProgramError (of several clients), PostgresUnavailableError.
    """
    program_id = parse_uuid(given)
    if program_id is not None:
        return await find_program(postgres, program_id, client_id=client_id)
    if "\0" in given:
        raise ProgramNotFoundError
    async with unavailable_translated():
        rows = await postgres.fetch(_BY_NAME, given, client_id)
    if not rows:
        raise ProgramNotFoundError
    if len(rows) > 1:
        raise AmbiguousProgramError([str(row["id"]) for row in rows[:20]])
    return program_from_row(rows[0])

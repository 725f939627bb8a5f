"""Create, change and find loyalty programs. Every change of the terms is a new version; older ones are kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson

from issuer.access import audit
from issuer.instants import EPOCH
from issuer.loyalty.program import (
    Program,
    ProgramEndedError,
    ProgramExistsError,
    ProgramNotFoundError,
    ProgramState,
    parse_name,
    parse_timezone,
    parse_unit,
)
from issuer.loyalty.terms import Terms, parse_terms
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

PROGRAMS: Final = """
SELECT p.id, p.client_id, p.name, p.unit, p.timezone, p.state, p.terms_number, p.created_at, t.terms::text AS terms
FROM loyalty_programs p JOIN program_terms t ON t.program_id = p.id AND t.number = p.terms_number"""

_INSERT: Final = """
INSERT INTO loyalty_programs (id, client_id, name, unit, timezone, terms_number) VALUES ($1, $2, $3, $4, $5, 1)"""

_INSERT_TERMS: Final = "INSERT INTO program_terms (program_id, number, terms) VALUES ($1, $2, $3::text::jsonb)"

_UPDATE: Final = """
UPDATE loyalty_programs SET name = $2, timezone = $3, state = $4, terms_number = $5 WHERE id = $1"""

_LIST: Final = f"""
{PROGRAMS} WHERE ($1::uuid IS NULL OR p.client_id = $1) AND (p.created_at, p.id) > ($2, $3::uuid)
ORDER BY p.created_at, p.id LIMIT $4"""

MAX_TERMS: Final = 1_000
"""Terms that a process keeps as it has parsed them: those of most requests are the same."""
_BEFORE_ALL: Final = (EPOCH, UUID(int=0))


def program_from_row(row: asyncpg.Record) -> Program:
    """Return the program of a row of PROGRAMS."""
    return Program(
        row["id"], row["client_id"], row["name"], row["unit"], row["timezone"], ProgramState(row["state"]),
        row["terms_number"], _terms_of(row["terms"], row["unit"]), row["created_at"],
    )  # fmt: skip


@lru_cache(MAX_TERMS)
def _terms_of(text: str, unit: str) -> Terms:
    return parse_terms(orjson.loads(text), unit)


async def create_program(
    postgres: Pool,
    client_id: UUID,
    name: str,
    terms: Terms,
    *,
    unit: str = "points",
    timezone: str = "UTC",
    actor: str,
    act: Act[Program] = UNKEPT,
) -> Program:
    """Create a program. `terms` were parsed for its `unit`. Raises InvalidProgramError, ProgramExistsError.

    Raises PostgresUnavailableError, too.
    """
    values = (client_id, parse_name(name), parse_unit(unit), parse_timezone(timezone))
    async with act.transaction(postgres) as connection:
        program_id = uuid4()
        try:
            await connection.execute(_INSERT, program_id, *values)
        except asyncpg.UniqueViolationError as error:
            raise ProgramExistsError from error
        await connection.execute(_INSERT_TERMS, program_id, 1, _text(terms))
        program = await _read(connection, program_id)
        await _record(connection, program, "program.create", actor)
        await act.keep(connection, program)
        return program


async def find_program(postgres: Pool, program_id: UUID, *, client_id: UUID | None = None) -> Program:
    """Return a program; with `client_id` only one of that client. Raises ProgramNotFoundError."""
    async with unavailable_translated():
        program = await _read(postgres, program_id)
    if client_id not in (None, program.client_id):
        raise ProgramNotFoundError
    return program


async def list_programs(
    postgres: Pool, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[Program]:
    """Return one page of the programs, oldest first. Raises InvalidCursorError and PostgresUnavailableError."""
    after = decode_cursor("programs", cursor, (datetime, UUID)) if cursor else _BEFORE_ALL
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, client_id, *after, limit + 1)
    programs = [program_from_row(row) for row in rows]
    return Page.of(programs, limit, lambda last: encode_cursor("programs", (last.created_at, last.id)))


async def change_program(
    postgres: Pool,
    program: Program,
    *,
    name: str | None = None,
    timezone: str | None = None,
    state: ProgramState | None = None,
    terms: Terms | None = None,
    actor: str,
    act: Act[Program] = UNKEPT,
) -> Program:
    """Change what is given; other terms are a new version with the next number. Points already granted do not change.

    Raises InvalidProgramError, ProgramEndedError for a program that has ended, and PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        await connection.execute("SELECT FROM loyalty_programs WHERE id = $1 FOR NO KEY UPDATE", program.id)
        before = await _read(connection, program.id)
        if before.state is ProgramState.ENDED and state not in (None, ProgramState.ENDED):
            raise ProgramEndedError
        after = replace(
            before,
            name=before.name if name is None else parse_name(name),
            timezone=before.timezone if timezone is None else parse_timezone(timezone),
            state=state or before.state,
        )
        if terms is not None and terms != before.terms:
            after = replace(after, terms=terms, terms_number=before.terms_number + 1)
            await connection.execute(_INSERT_TERMS, program.id, after.terms_number, _text(terms))
        if after != before:
            values = (after.name, after.timezone, after.state, after.terms_number)
            try:
                await connection.execute(_UPDATE, program.id, *values)
            except asyncpg.UniqueViolationError as error:
                raise ProgramExistsError from error
            await _record(connection, after, "program.change", actor)
        await act.keep(connection, after)
        return after


async def _read(connection: Pool | AnyConnection, program_id: UUID) -> Program:
    row = await connection.fetchrow(f"{PROGRAMS} WHERE p.id = $1", program_id)
    if row is None:
        raise ProgramNotFoundError
    return program_from_row(row)


async def _record(connection: AnyConnection, program: Program, action: str, actor: str) -> None:
    detail: dict[str, Any] = program.to_json()
    await audit.record(connection, actor=actor, action=action, subject=f"program:{program.id}", detail=detail)


def _text(terms: Terms) -> str:
    return orjson.dumps(terms.to_json()).decode()

"""Operators in Postgres: create, reset, disable, find, and check a password.

A password is tried at most MAX_TRIES times; then it is refused for LOCKED_FOR, the right one too, except from a browser
with which the operator has signed in before: no one is locked out by the tries of others. A try is counted
before it is compared, so tries at the same time are counted as well. A wrong name costs the same work and gets the same
answer as a wrong password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.names import name_problem
from issuer.operators.operator import (
    InvalidOperatorError,
    Operator,
    OperatorExistsError,
    OperatorNotFoundError,
    WrongPasswordError,
)
from issuer.operators.passwords import (
    InvalidPasswordError,
    check_new_password,
    hash_password,
    is_outdated,
    is_password,
    new_password,
)
from issuer.operators.role import Role
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.sessions.session_store import SessionKind, end_sessions
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

MAX_TRIES: Final = 10
LOCKED_FOR: Final = timedelta(minutes=15)
INITIAL_FOR: Final = timedelta(days=7)
"""How long a random first password is valid."""

_COLUMNS: Final = (
    "id, name, role, client_id, initial_until, created_at, disabled_at,"
    " (SELECT clients.name FROM clients WHERE clients.id = operators.client_id) AS client_name"
)
_INSERT: Final = f"""
INSERT INTO operators (id, name, role, client_id, password_hash, initial_until)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval)
ON CONFLICT (lower(name)) WHERE disabled_at IS NULL DO NOTHING RETURNING {_COLUMNS}"""
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM operators WHERE $1::timestamptz IS NULL OR (created_at, id) > ($1, $2)
ORDER BY created_at, id LIMIT $3"""
# A reset since the operator was read has set another time.
_HASH: Final = """
SELECT password_hash FROM operators WHERE id = $1 AND initial_until IS NOT DISTINCT FROM $2 FOR UPDATE"""
_FIND: Final = f"SELECT {_COLUMNS} FROM operators WHERE id = $1 AND disabled_at IS NULL"
_NAMED: Final = f"SELECT {_COLUMNS} FROM operators WHERE lower(name) = lower($1) AND disabled_at IS NULL"
_RESET: Final = f"""
UPDATE operators SET password_hash = $2, initial_until = now() + $3::interval, tries = 0, locked_until = NULL
WHERE id = $1 AND disabled_at IS NULL RETURNING {_COLUMNS}"""
_CHOOSE: Final = f"""
UPDATE operators SET password_hash = $2, initial_until = NULL, tries = 0, locked_until = NULL
WHERE id = $1 AND disabled_at IS NULL RETURNING {_COLUMNS}"""
_DISABLE: Final = f"""
UPDATE operators SET disabled_at = now() WHERE id = $1 AND disabled_at IS NULL RETURNING {_COLUMNS}"""
# After a lock the count begins again.
_TRY: Final = f"""
WITH tried AS (
  SELECT id, CASE WHEN locked_until IS NULL THEN tries + 1 ELSE 1 END AS tries FROM operators
  WHERE lower(name) = lower($1) AND disabled_at IS NULL AND (locked_until IS NULL OR locked_until <= now() OR id = $3)
  FOR UPDATE)
UPDATE operators o SET tries = tried.tries,
  locked_until = CASE WHEN tried.tries >= {MAX_TRIES} THEN now() + $2::interval END
FROM tried WHERE o.id = tried.id RETURNING o.id, o.password_hash"""
_FORGET_TRIES: Final = f"""
UPDATE operators SET tries = 0, locked_until = NULL, password_hash = coalesce($2, password_hash)
WHERE id = $1 AND password_hash = $3 AND disabled_at IS NULL AND (initial_until IS NULL OR initial_until > now())
RETURNING {_COLUMNS}"""


async def create_operator(
    postgres: Pool,
    name: str,
    role: str,
    *,
    client_id: UUID | None = None,
    actor: str,
    act: Act[Operator] = UNKEPT,
) -> tuple[Operator, str]:
    """Create an operator. Return it with its first password, which is shown only this once.

    Raises InvalidOperatorError, OperatorExistsError, PostgresUnavailableError.
    """
    problem = name_problem(name)
    if problem is not None:
        raise InvalidOperatorError(problem)
    if role not in tuple(Role):
        raise InvalidOperatorError(f"unknown role; use {', '.join(Role)}")
    password = new_password()
    hashed = await hash_password(password)
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(_INSERT, uuid4(), name, role, client_id, hashed, INITIAL_FOR)
        if row is None:
            raise OperatorExistsError
        operator = _from_row(row)
        await _audit(connection, operator, "operator.create", actor, role=role, client_id=client_id)
        await act.keep(connection, operator)
    return operator, password


async def reset_operator(
    postgres: Pool, operator_id: UUID, *, actor: str, act: Act[Operator] = UNKEPT
) -> tuple[Operator, str]:
    """Give an operator another first password, which ends a lock and all sessions. Raises OperatorNotFoundError."""
    password = new_password()
    hashed = await hash_password(password)
    async with act.transaction(postgres) as connection:
        operator = _found(await connection.fetchrow(_RESET, operator_id, hashed, INITIAL_FOR))
        await end_sessions(connection, SessionKind.CONSOLE, [operator.owner])
        await _audit(connection, operator, "operator.reset", actor)
        await act.keep(connection, operator)
    return operator, password


async def disable_operator(postgres: Pool, operator_id: UUID, *, actor: str) -> Operator:
    """Refuse an operator from the next request on. The name is free again. Raises OperatorNotFoundError."""
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        operator = _found(await connection.fetchrow(_DISABLE, operator_id))
        await end_sessions(connection, SessionKind.CONSOLE, [operator.owner])
        await _audit(connection, operator, "operator.disable", actor)
    return operator


async def choose_password(connection: AnyConnection, operator: Operator, password: str) -> Operator:
    """Change a password to a chosen one in the caller's transaction, which ends all sessions of the operator.

    Raises InvalidPasswordError, OperatorNotFoundError, PasswordsBusyError.
    """
    check_new_password(password, operator.name)
    stored = await connection.fetchval(_HASH, operator.id, operator.initial_until)
    if stored is None:
        raise OperatorNotFoundError
    if await is_password(password, stored):
        raise InvalidPasswordError("Choose another password than before.")
    changed = _found(await connection.fetchrow(_CHOOSE, operator.id, await hash_password(password)))
    await end_sessions(connection, SessionKind.CONSOLE, [operator.owner])
    await _audit(connection, operator, "operator.choose-password", operator.actor)
    return changed


async def list_operators(postgres: Pool, *, limit: int = 100, cursor: str | None = None) -> Page[Operator]:
    """Return one page of all operators, disabled ones too, oldest first. Raises InvalidCursorError."""
    created_at, last_id = decode_cursor("operators", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(_PAGE, created_at, last_id, limit + 1)
    return Page.of(
        [_from_row(row) for row in rows], limit, lambda last: encode_cursor("operators", (last.created_at, last.id))
    )


async def find_operator(postgres: Pool, operator_id: UUID) -> Operator:
    """Return an operator that is not disabled. Raises OperatorNotFoundError."""
    async with unavailable_translated():
        return _found(await postgres.fetchrow(_FIND, operator_id))


async def find_named_operator(postgres: Pool, name: str) -> Operator:
    """Return the operator of this name, in any case of its letters. Raises OperatorNotFoundError."""
    async with unavailable_translated():
        return _found(await postgres.fetchrow(_NAMED, name))


@dataclass(frozen=True, slots=True)
class RightPassword:
    """A password that was right when it was compared. `stored`: the hash; `renewed`: one with today's parameters."""

    operator_id: UUID
    stored: str = field(repr=False)
    renewed: str | None = field(repr=False)


async def check_password(postgres: Pool, name: str, password: str, *, known: UUID | None = None) -> RightPassword:
    """Compare a password with that of the operator of this name; `admit_operator` says whether it still counts.

    `known`: the operator whose browser this is, so a lock, which others may have caused, is passed over.
    Raises WrongPasswordError, PasswordsBusyError, PostgresUnavailableError.
    """
    tried = None
    if "\0" not in name:
        async with unavailable_translated():
            tried = await postgres.fetchrow(_TRY, name, LOCKED_FOR, known)
    if not await is_password(password, None if tried is None else tried["password_hash"]) or tried is None:
        raise WrongPasswordError
    renewed = await hash_password(password) if is_outdated(tried["password_hash"]) else None
    return RightPassword(UUID(bytes=tried["id"].bytes), tried["password_hash"], renewed)


async def admit_operator(connection: AnyConnection, right: RightPassword) -> Operator:
    """Return the operator with this password, in the transaction that begins the session.

    A reset waits for it and ends the session; one that came before has changed the hash. Raises WrongPasswordError.
    """
    row = await connection.fetchrow(_FORGET_TRIES, right.operator_id, right.renewed, right.stored)
    if row is None:
        raise WrongPasswordError
    return _from_row(row)


async def _audit(connection: AnyConnection, operator: Operator, action: str, actor: str, **detail: object) -> None:
    subject = f"operator:{operator.id}"
    await audit.record(
        connection, actor=actor, action=action, subject=subject, detail={"name": operator.name, **detail}
    )


def _found(row: asyncpg.Record | None) -> Operator:
    if row is None:
        raise OperatorNotFoundError
    return _from_row(row)


def _from_row(row: asyncpg.Record) -> Operator:
    client_id = None if row["client_id"] is None else UUID(bytes=row["client_id"].bytes)
    return Operator(
        UUID(bytes=row["id"].bytes), row["name"], Role(row["role"]), client_id, row["client_name"],
        row["initial_until"], row["created_at"], row["disabled_at"],
    )  # fmt: skip

"""Sessions in Postgres: begin, find, end, remove. All errors of Postgres are PostgresUnavailableError."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

from issuer.sessions.tokens import new_token, token_hash
from issuer.storage.postgres import AnyConnection, Pool, count_of, unavailable_translated


class SessionKind(StrEnum):
    MEMBER = "member"
    TILL = "till"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """`idle`: without a request; `absolute`: since the login, whatever is requested."""

    idle: timedelta
    absolute: timedelta


LIMITS: Final = {
    SessionKind.MEMBER: SessionLimits(timedelta(days=14), timedelta(days=90)),
    SessionKind.TILL: SessionLimits(timedelta(hours=12), timedelta(days=7)),
    SessionKind.CONSOLE: SessionLimits(timedelta(minutes=30), timedelta(hours=12)),
}
MAX_OF_OWNER: Final = 10
"""Sessions of one owner. A further login ends the oldest one."""
_MOVED_BELOW: Final = 0.9
"""The rest of the idle time below which a request moves it: not every request writes."""


@dataclass(frozen=True, slots=True)
class LoginSession:
    """A signed-in browser. `hash` is that of its token."""

    hash: bytes = field(repr=False)
    kind: SessionKind
    owner: str
    program_id: UUID | None
    detail: Mapping[str, Any]


_TRIM: Final = f"""
DELETE FROM sessions WHERE kind = $1 AND owner = $2 AND (expires_at <= now() OR hash IN (
  SELECT hash FROM sessions WHERE kind = $1 AND owner = $2 ORDER BY began_at DESC OFFSET {MAX_OF_OWNER - 1}))"""

_BEGIN: Final = """
INSERT INTO sessions (hash, kind, owner, program_id, detail, expires_at, ends_at)
VALUES ($1, $2, $3, $4, $5::text::jsonb, now() + $6, now() + $7)"""

_FIND: Final = """
SELECT hash, owner, program_id, detail::text, expires_at < now() + $4::interval AND expires_at < ends_at AS moves
FROM sessions WHERE hash = $1 AND kind = $2 AND program_id IS NOT DISTINCT FROM $3 AND expires_at > now()"""

_MOVE: Final = "UPDATE sessions SET expires_at = least(now() + $2, ends_at) WHERE hash = $1 AND expires_at > now()"

_CHANGE: Final = "UPDATE sessions SET detail = $2::text::jsonb WHERE hash = $1"

_END: Final = "DELETE FROM sessions WHERE hash = $1"

_END_ALL: Final = "DELETE FROM sessions WHERE kind = $1 AND owner = ANY ($2) AND hash IS DISTINCT FROM $3"

_DELETE_EXPIRED: Final = """
DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions WHERE expires_at <= now() ORDER BY expires_at LIMIT $1)"""


async def begin_session(
    connection: AnyConnection,
    kind: SessionKind,
    owner: str,
    *,
    program_id: UUID | None = None,
    detail: Mapping[str, Any] | None = None,
) -> str:
    """Begin a session, in the caller's transaction, and return its token, which is stored nowhere."""
    token, limits = new_token(), LIMITS[kind]
    await connection.execute(_TRIM, kind, owner)
    written = orjson.dumps(dict(detail or {})).decode()
    await connection.execute(_BEGIN, token_hash(token), kind, owner, program_id, written, limits.idle, limits.absolute)
    return token


async def find_session(
    postgres: Pool, token: str, kind: SessionKind, program_id: UUID | None, *, used: bool = True
) -> LoginSession | None:
    """Return the session of a token for these pages; None: there is none, or it has expired.

    `used`: a person has asked for the page, from which on the idle time counts.
    """
    hashed, idle = token_hash(token), LIMITS[kind].idle
    if hashed is None:
        return None
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, hashed, kind, program_id, idle * _MOVED_BELOW)
        if used and row is not None and row["moves"]:
            await postgres.execute(_MOVE, hashed, idle)
    if row is None:
        return None
    return LoginSession(hashed, kind, row["owner"], row["program_id"], orjson.loads(row["detail"]))


async def change_detail(postgres: Pool | AnyConnection, session: LoginSession, detail: Mapping[str, Any]) -> None:
    """Replace what the pages keep in a session."""
    async with unavailable_translated():
        await postgres.execute(_CHANGE, session.hash, orjson.dumps(dict(detail)).decode())


async def end_session(postgres: Pool | AnyConnection, token: str) -> None:
    """End the session of a token, if there is one."""
    async with unavailable_translated():
        await postgres.execute(_END, token_hash(token))


async def end_sessions(
    postgres: Pool | AnyConnection, kind: SessionKind, owners: Collection[str], *, but: LoginSession | None = None
) -> int:
    """End all sessions of these owners, except for `but`; return how many."""
    async with unavailable_translated():
        return count_of(await postgres.execute(_END_ALL, kind, list(owners), None if but is None else but.hash))


async def delete_expired_sessions(postgres: Pool, limit: int) -> int:
    """Delete expired sessions, at most `limit`; return how many."""
    async with unavailable_translated():
        return count_of(await postgres.execute(_DELETE_EXPIRED, limit))

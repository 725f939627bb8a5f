"""The audit log: actor, action and time of every administrative act, over HTTP and from the command line."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.postgres import Connection, Pool, PoolConnection, unavailable_translated

AUTH_OFF_ACTOR: Final = "auth-off"
"""The actor of requests while the API runs without authentication."""


def cli_actor() -> str:
    """Return the actor of a command: the operating system's user, or `unknown` if it has no name."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli:unknown"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: bytes


async def record(
    connection: Connection | PoolConnection, *, actor: str, action: str, subject: str, detail: Mapping[str, Any]
) -> None:
    """Write one entry. Call this in the transaction of the act itself, so that both are committed or neither is.

    The commit gives the entry its id, time and hash (`issuer.access.audit_chain`). No lock is held before.
    """
    await connection.execute(
        "INSERT INTO audit_intake (actor, action, subject, detail) VALUES ($1, $2, $3, $4::text::jsonb)",
        actor,
        action,
        subject,
        orjson.dumps(dict(detail), default=str).decode(),
    )


_PAGE: Final = """
SELECT id, at, actor, action, subject, detail::text, hash FROM audit_log
WHERE $1::bigint IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"""


async def list_entries(postgres: Pool, *, limit: int = 100, cursor: str | None = None) -> Page[AuditEntry]:
    """Return one page of entries, newest first. Raises InvalidCursorError and PostgresUnavailableError."""
    (before,) = decode_cursor("audit", cursor, (int,)) if cursor else (None,)
    async with unavailable_translated():
        rows = await postgres.fetch(
            _PAGE,
            before,
            limit + 1,
        )
    entries = [
        AuditEntry(
            row["id"], row["at"], row["actor"], row["action"], row["subject"], orjson.loads(row["detail"]), row["hash"]
        )
        for row in rows
    ]
    return Page.of(entries, limit, lambda last: encode_cursor("audit", (last.id,)))

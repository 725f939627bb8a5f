"""The chain of the audit log: verify it, return its newest end, cut it off at the oldest one.

Each entry carries SHA-256 of the hash of the entry before it and of its own content: id, microseconds since 1970,
actor, action, subject and detail, each as a netstring (`5:hello,`). A function in the schema computes the hash in the
commit of the act (`issuer/storage/migrations/audit_schema.py`). This module computes it again, by itself.

A user that may change the schema can also write a new chain. Therefore an operator keeps heads elsewhere, and `verify`
compares the chain with one of them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from issuer.instants import EPOCH
from issuer.storage.postgres import Pool, PoolConnection, unavailable_translated

MIN_RETENTION_DAYS: Final = 31
"""The schema refuses to remove entries that are younger than 30 days; a day begins at midnight."""
BATCH_SIZE: Final = 1_000
_TIMEOUT_S: Final = 3_600.0
_FORM: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
_US: Final = timedelta(microseconds=1)


class InvalidAuditHeadError(ValueError):
    """The text is not an audit head, or the head is older than every entry that is kept."""


@dataclass(frozen=True, slots=True)
class AuditHead:
    """An end of the chain: the id and hash of an entry. Written `ID:HASH`; id 0 stands before the first entry."""

    id: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.id}:{self.hash.hex()}"


def parse_head(text: str) -> AuditHead:
    """Raises InvalidAuditHeadError."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidAuditHeadError("a head is ID:HASH, as `issuer audit head` prints it")
    return AuditHead(int(found[1]), bytes.fromhex(found[2]))


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification. `fault` names the first broken entry; None: the chain is whole.

    `entries`: how many entries were found whole before the fault. `removed`: the last entry that retention removed.
    """

    entries: int
    removed: AuditHead
    newest: AuditHead
    fault: str | None


def entry_hash(previous: bytes, id: int, at: datetime, actor: str, action: str, subject: str, detail: str) -> bytes:
    """Return the hash of an entry. `detail`: as Postgres writes the jsonb."""
    content = bytearray(previous)
    for text in (str(id), str((at - EPOCH) // _US), actor, action, subject, detail):
        field = text.encode()
        content += b"%d:%b," % (len(field), field)
    return hashlib.sha256(content).digest()


_ENDS: Final = "SELECT which, id, hash FROM audit_ends"
_ENTRIES: Final = "SELECT id, at, actor, action, subject, detail::text, hash FROM audit_log ORDER BY id"


async def _read_ends(connection: Pool | PoolConnection) -> dict[str, AuditHead]:
    return {row["which"]: AuditHead(row["id"], row["hash"]) for row in await connection.fetch(_ENDS)}


async def read_head(postgres: Pool) -> AuditHead:
    """Return the newest entry. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        return (await _read_ends(postgres))["newest"]


async def verify(postgres: Pool, remembered: AuditHead | None = None) -> Verification:
    """Compute every hash again and compare both ends, and the `remembered` head if one is given.

    Reads one snapshot in constant memory and locks nothing. Raises InvalidAuditHeadError if the remembered head is
    older than what retention has removed, PostgresUnavailableError.
    """
    async with (
        unavailable_translated(),
        postgres.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        ends = await _read_ends(connection)
        removed, newest = ends["removed"], ends["newest"]
        if remembered is not None and remembered.id < removed.id:
            raise InvalidAuditHeadError(
                f"entry {remembered.id} was removed by retention, as all up to {removed.id} were"
            )
        last, entries, fault = removed, 0, _compare(removed, remembered)
        async for row in connection.cursor(_ENTRIES, prefetch=BATCH_SIZE, timeout=_TIMEOUT_S):
            if fault is not None:
                break
            if row["id"] != last.id + 1:
                fault = f"entry {last.id + 1} is missing; the next one is {row['id']}"
                break
            if entry_hash(last.hash, *tuple(row)[:-1]) != row["hash"]:
                fault = f"entry {row['id']} is not the one that was written behind entry {last.id}"
                break
            last, entries = AuditHead(row["id"], row["hash"]), entries + 1
            fault = _compare(last, remembered)
        if fault is None and last != newest:
            fault = f"the log ends with entry {last.id}, but entry {newest.id} was written last"
        if fault is None and remembered is not None and remembered.id > last.id:
            fault = f"the log ends with entry {last.id}, but entry {remembered.id} was there"
        return Verification(entries, removed, newest, fault)


def _compare(head: AuditHead, remembered: AuditHead | None) -> str | None:
    if remembered is None or remembered.id != head.id or remembered.hash == head.hash:
        return None
    return f"entry {head.id} is another one than the remembered entry {remembered.id}"


_CUT: Final = "SELECT audit_cut(date_trunc('day', now()) - make_interval(days => $1), $2)"


async def cut(postgres: Pool, days: int) -> int:
    """Remove entries that are older than `days` days, at most BATCH_SIZE; return how many.

    The last removed hash is kept, and the cut is an entry itself. Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        removed: int = await postgres.fetchval(_CUT, days, BATCH_SIZE)
    return removed

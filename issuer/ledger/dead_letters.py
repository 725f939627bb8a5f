"""Dead letters: events that could not be recorded, stored whole with the reason until an operator resolves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from issuer.access import audit
from issuer.contract.events import MAX_IN_CALL, RedemptionColumns, UndecodableEventError, decode_columns
from issuer.ledger.anomalies import bigint_or_none
from issuer.ledger.record import record_redemptions
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, count_of, unavailable_translated

MAX_REASON: Final = 2_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One redemption of a readable entry, or a whole entry that is not readable (pool_id and seq are None).

    `serial`: of the first of its `facts`; None: not known.
    """

    partition: int
    stream_id: str
    epoch: int
    pool_id: int | None
    seq: int | None
    reason: str
    raw: Sequence[bytes]
    serial: int | None = None
    facts: int = 1


_INSERT: Final = """
INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw, serial, facts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (epoch, partition, stream_id, pool_id, seq) DO NOTHING"""


async def store_dead_letters(connection: AnyConnection, letters: Sequence[DeadLetter]) -> None:
    """Store letters in the caller's transaction. One that is stored already (an entry delivered twice) adds no row."""
    await connection.executemany(
        _INSERT,
        [
            (letter.partition, letter.stream_id, letter.epoch, bigint_or_none(letter.pool_id),
             bigint_or_none(letter.seq), letter.reason.replace("\0", "\\0")[:MAX_REASON], list(letter.raw),
             bigint_or_none(letter.serial), letter.facts)
            for letter in letters
        ],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as Postgres stores it."""

    id: int
    partition: int
    stream_id: str
    epoch: int
    pool_id: int | None
    seq: int | None
    reason: str
    created_at: datetime
    resolved_at: datetime | None


_UNREADABLE: Final = "SELECT partition, raw FROM dead_letters WHERE seq IS NULL AND resolved_at IS NULL"


async def count_unreadable(connection: AnyConnection) -> dict[int, int]:
    """Return by partition how many redemptions its unresolved letters of whole entries may contain.

    They have left the backlog, and nothing says which seqs they are about.
    """
    counts: dict[int, int] = {}
    for row in await connection.fetch(_UNREADABLE):
        fields = dict(zip(row["raw"][::2], row["raw"][1::2], strict=False))
        text = fields.get(b"n", b"")
        known = text.isdigit() and len(text) < 4 and int(text) <= MAX_IN_CALL
        counts[row["partition"]] = counts.get(row["partition"], 0) + (int(text) if known else MAX_IN_CALL)
    return counts


_LIST: Final = """
SELECT id, partition, stream_id, epoch, pool_id, seq, reason, created_at, resolved_at FROM dead_letters
WHERE id > $1 AND ($2 OR resolved_at IS NULL) ORDER BY id LIMIT $3"""


async def list_dead_letters(
    postgres: Pool, *, after_id: int = 0, limit: int = 100, resolved: bool = False
) -> list[StoredDeadLetter]:
    """Return unresolved dead letters, oldest first; with `resolved` the resolved ones, too."""
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, after_id, resolved, limit)
    return [StoredDeadLetter(*row) for row in rows]


async def page_of_dead_letters(
    postgres: Pool, *, resolved: bool = False, limit: int = 100, cursor: str | None = None
) -> Page[StoredDeadLetter]:
    """Return one page of what `list_dead_letters` returns. Raises InvalidCursorError, PostgresUnavailableError."""
    (after,) = decode_cursor("dead_letters", cursor, (int,)) if cursor else (0,)
    letters = await list_dead_letters(postgres, after_id=after, limit=limit + 1, resolved=resolved)
    return Page.of(letters, limit, lambda last: encode_cursor("dead_letters", (last.id,)))


@dataclass(slots=True)
class RetryResult:
    """The result of a retry. `reasons` maps the id of each letter that stays to why it could not be recorded."""

    resolved: int
    reasons: dict[int, str]


async def retry_dead_letters(
    postgres: Pool, *, only_id: int | None = None, actor: str, act: Act[RetryResult] = UNKEPT
) -> RetryResult:
    """Try to record unresolved dead letters, each behind a savepoint of its own so that no letter blocks another.

    A letter that is recorded now, or was recorded already with the same content, is resolved.
    Raises PostgresUnavailableError: then none is.
    """
    retried = RetryResult(0, {})
    after = 0 if only_id is None else only_id - 1
    async with act.transaction(postgres) as connection:
        while True:
            async with connection.transaction():
                row = await connection.fetchrow(_NEXT, after, only_id)
                if row is None:
                    break
                reason = await _retry(connection, row)
            after = row["id"]
            if reason is None:
                retried.resolved += 1
            else:
                retried.reasons[after] = reason
        detail = {"id": only_id, "resolved": retried.resolved, "not_resolved": len(retried.reasons)}
        await audit.record(connection, actor=actor, action="dead_letters.retry", subject="dead letters", detail=detail)
        await act.keep(connection, retried)
    return retried


# Locked, so that two retries at the same time do not record the same anomaly twice.
_NEXT: Final = """
SELECT * FROM dead_letters
WHERE id > $1 AND resolved_at IS NULL AND ($2::bigint IS NULL OR id = $2) ORDER BY id LIMIT 1 FOR UPDATE"""


_REMOVE: Final = """
DELETE FROM dead_letters WHERE id IN (
    SELECT id FROM dead_letters WHERE resolved_at < now() - make_interval(days => $1) ORDER BY id LIMIT $2)"""


async def remove_resolved(postgres: Pool, days: int, at_most: int) -> int:
    """Remove letters that were resolved more than `days` days ago; return how many. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        status = await postgres.execute(_REMOVE, days, at_most)
    return count_of(status)


async def _retry(connection: AnyConnection, row: asyncpg.Record) -> str | None:
    """Record one letter. Return why it still cannot be recorded, or None."""
    raw = row["raw"]
    columns = RedemptionColumns()
    try:
        decode_columns(dict(zip(raw[::2], raw[1::2], strict=False)), columns)
    except UndecodableEventError as error:
        return str(error)
    if row["seq"] is not None:
        numbers = zip(columns.pool_ids, columns.seqs, strict=True)
        columns = columns.take([place for place, pair in enumerate(numbers) if pair == (row["pool_id"], row["seq"])])
        if not columns:
            return "the stored entry does not contain this redemption"
    recorded = await record_redemptions(connection, columns)
    if recorded.rejected:
        return recorded.rejected[0].reason
    if recorded.contradicted:
        return "it contradicts the ledger; see the anomalies"
    await connection.execute("UPDATE dead_letters SET resolved_at = now() WHERE id = $1", row["id"])
    return None

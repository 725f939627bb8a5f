"""Dead letters: events that could not go into the ledger, kept whole, with the reason, until a person settles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from issuer.contract.events import RedemptionColumns, UndecodableEventError, decode_columns
from issuer.ledger.anomalies import bigint_or_none
from issuer.ledger.record import AnyConnection, record_redemptions
from issuer.storage.postgres import Pool, unavailable_translated

REASON_LENGTH: Final = 2_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One redemption of an entry that could be read, or (pool_id and seq None) one entry that could not."""

    partition: int
    stream_id: str
    epoch: int
    pool_id: int | None
    seq: int | None
    reason: str
    raw: Sequence[bytes]


_BURY: Final = """
INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (epoch, partition, stream_id, pool_id, seq) DO NOTHING"""


async def bury(connection: AnyConnection, letters: Sequence[DeadLetter]) -> None:
    """Writes them down in the caller's transaction; the same one again (an entry delivered twice) is not new."""
    await connection.executemany(
        _BURY,
        [
            (letter.partition, letter.stream_id, letter.epoch, bigint_or_none(letter.pool_id),
             bigint_or_none(letter.seq), letter.reason.replace("\0", "\\0")[:REASON_LENGTH], list(letter.raw))
            for letter in letters
        ],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as it lies in Postgres."""

    id: int
    partition: int
    stream_id: str
    epoch: int
    pool_id: int | None
    seq: int | None
    reason: str
    created_at: datetime
    resolved_at: datetime | None


_LIST: Final = """
SELECT id, partition, stream_id, epoch, pool_id, seq, reason, created_at, resolved_at FROM dead_letters
WHERE id > $1 AND ($2 OR resolved_at IS NULL) ORDER BY id LIMIT $3"""


async def list_dead_letters(
    postgres: Pool, *, after_id: int = 0, limit: int = 100, resolved: bool = False
) -> list[StoredDeadLetter]:
    """Those that wait for somebody, oldest first; with `resolved` the settled ones too."""
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, after_id, resolved, limit)
    return [StoredDeadLetter(*row) for row in rows]


@dataclass(slots=True)
class RetryResult:
    """What a retry came to. `reasons`: why those that stay could not be recorded, by id."""

    resolved: int
    reasons: dict[int, str]


async def retry_dead_letters(postgres: Pool, *, only_id: int | None = None) -> RetryResult:
    """Tries to record waiting dead letters again, each in a transaction of its own, so that one bad keeps no other.

    One that goes into the ledger, or is there already with the same story, is resolved.
    Raises PostgresUnavailableError.
    """
    retried = RetryResult(0, {})
    after = 0 if only_id is None else only_id - 1
    async with unavailable_translated(), postgres.acquire() as connection:
        while True:
            async with connection.transaction():
                row = await connection.fetchrow(_NEXT, after, only_id)
                if row is None:
                    return retried
                reason = await _retry(connection, row)
            after = row["id"]
            if reason is None:
                retried.resolved += 1
            else:
                retried.reasons[after] = reason


# Locked, so that two people who retry do not record the same anomaly twice.
_NEXT: Final = """
SELECT * FROM dead_letters
WHERE id > $1 AND resolved_at IS NULL AND ($2::bigint IS NULL OR id = $2) ORDER BY id LIMIT 1 FOR UPDATE"""


async def _retry(connection: AnyConnection, row: asyncpg.Record) -> str | None:
    """Records one letter; returns why it still cannot be recorded, or None."""
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
            return "the kept entry does not hold this redemption"
    recorded = await record_redemptions(connection, columns)
    if recorded.rejected:
        return recorded.rejected[0].reason
    if recorded.contradicted:
        return "the ledger tells another story; see the anomalies"
    await connection.execute("UPDATE dead_letters SET resolved_at = now() WHERE id = $1", row["id"])
    return None

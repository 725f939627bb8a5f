"""Quarantined seqs, which a lost Redis may have issued: listed, and released once it is known that it has not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from issuer.access import audit
from issuer.batches.store import BatchNotFoundError, push_batch
from issuer.pools.loader import load_pool
from issuer.pools.pool import lock_seqs
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import Pool, unavailable_translated
from issuer.storage.stores import Stores

_LIST: Final = """
SELECT p.id AS pool_id, p.batch_id, b.name AS batch_name, p.client_id, k.name AS client_name, s.epoch,
       min(s.seq) AS first_seq,
       max(s.seq) AS last_seq, count(*) FILTER (WHERE s.released_at IS NULL) AS held,
       count(*) FILTER (WHERE s.released_at IS NOT NULL) AS released, min(s.quarantined_at) AS quarantined_at
FROM quarantined s JOIN pools p ON p.id = s.pool_id JOIN batches b ON b.id = p.batch_id
LEFT JOIN clients k ON k.id = p.client_id
WHERE ($1::uuid IS NULL OR p.batch_id = $1) AND ($2::bigint IS NULL OR s.epoch = $2)
GROUP BY p.id, p.batch_id, b.name, p.client_id, k.name, s.epoch ORDER BY s.epoch, p.id"""

# The code of a purchase is in Postgres whatever Redis has lost: the member has it.
_HELD: Final = """
SELECT q.seq FROM quarantined q
WHERE q.pool_id = $1 AND q.released_at IS NULL AND ($2::bigint IS NULL OR q.epoch = $2) AND NOT EXISTS (
  SELECT FROM codes c JOIN moves m ON m.code = c.code AND m.batch_id = c.batch_id AND m.state = 'done'
  WHERE c.pool_id = q.pool_id AND c.seq = q.seq)
ORDER BY q.seq FOR UPDATE OF q"""

_REQUEUE: Final = "SELECT requeue_quarantined($1, $2)"


@dataclass(frozen=True, slots=True)
class QuarantinedRange:
    """The seqs of one pool that one recovery (its epoch) quarantined."""

    pool_id: int
    batch_id: UUID
    batch_name: str
    client_id: UUID
    client_name: str | None
    epoch: int
    first_seq: int
    last_seq: int
    held: int
    released: int
    quarantined_at: datetime


async def list_quarantined(
    postgres: Pool, batch_id: UUID | None = None, *, epoch: int | None = None
) -> list[QuarantinedRange]:
    """Return what was ever quarantined, by recovery and pool: all of it, of a batch, or of the recovery with an epoch.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, batch_id, epoch)
    return [_range(row) for row in rows]


def _range(row: Any) -> QuarantinedRange:
    ids = {name: UUID(bytes=row[name].bytes) for name in ("batch_id", "client_id")}
    return QuarantinedRange(**dict(row) | ids)


async def release(
    stores: Stores,
    batch_id: UUID,
    *,
    client_id: UUID | None = None,
    epoch: int | None = None,
    actor: str,
    act: Act[int] = UNKEPT,
) -> int:
    """Give the quarantined codes of a batch new seqs at the tail of their pools. Return how many, all or none.

    `client_id`, `epoch`: only those of a client, only those that one recovery quarantined.

    The operator guarantees that no journal and no old primary has a record of them: a code that was issued would be
    issued a second time. What no caller can have received is released without that (`issuer.recovery.aftermath`). A
    late event of a released seq becomes an anomaly. The codes of purchases stay quarantined.

    Raises BatchNotFoundError.
    """
    async with act.transaction(stores.postgres) as connection:
        await lock_seqs(connection, batch_id)
        pools = await connection.fetch(
            "SELECT id FROM pools WHERE batch_id = $1 AND ($2::uuid IS NULL OR client_id = $2) ORDER BY id",
            batch_id,
            client_id,
        )
        if not pools:
            raise BatchNotFoundError("no such batch, or no codes of that client in it")
        released = 0
        for pool in pools:
            rows = await connection.fetch(_HELD, pool["id"], epoch, timeout=600)
            seqs = [row["seq"] for row in rows]
            if seqs:
                released += await connection.fetchval(_REQUEUE, pool["id"], seqs, timeout=600)
        await audit.record(
            connection,
            actor=actor,
            action="quarantined.release",
            subject=str(batch_id),
            detail={"client_id": str(client_id) if client_id else None, "epoch": epoch, "codes": released},
        )
        await act.keep(connection, released)
    # Committed. Stopped here, the worker pushes the revision and tops the pools up.
    await push_batch(stores, batch_id)
    for pool in pools:
        await load_pool(stores, pool["id"])
    return released

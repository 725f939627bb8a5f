"""Write to Redis what redeem.lua reads of a batch or a coupon."""

from __future__ import annotations

from typing import Final

import asyncpg

from issuer.batches.rules import Rules
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import PUT_BATCH
from issuer.instants import to_ms
from issuer.storage.redis_link import NotReadyError, ScriptRunner

# `coupon`: as put_batch.lua reads it; '' for a batch of codes. `unopened`: a coupon is used without a list of codes, so
# it stays closed until Postgres has stored that its pool is open: a recovery assumes that an unopened pool issued
# nothing.
FOR_REDIS: Final = """
SELECT b.*, coalesce((
  SELECT concat_ws(E'\\x1f', c.available + c.reversed + c.released, c.terms,
    CASE WHEN c.unambiguous THEN '' ELSE c.folded END, coalesce(c.product_id, ''), t.terms::text)
  FROM coupons c JOIN coupon_terms t ON t.pool_id = c.pool_id AND t.number = c.terms WHERE c.batch_id = b.id), ''
) AS coupon,
  b.kind = 'coupon' AND EXISTS (SELECT FROM pools p WHERE p.batch_id = b.id AND NOT p.opened) AS unopened
FROM batches b"""


def closing_reason(row: asyncpg.Record) -> str:
    """Return the field `rebuilding` of a batch (a row of FOR_REDIS) while nothing is rebuilt; '' opens the batch."""
    return "unopened" if row["unopened"] else ""


async def put_batch(redis: ScriptRunner, row: asyncpg.Record, rules: Rules, *, rebuilding: str = "") -> bool:
    """Write one revision of a batch (a row of FOR_REDIS) to Redis.

    Returns False if the call was to close the batch (`rebuilding`) and Redis already has it open at this revision: its
    windows are rebuilt. Raises NotReadyError and RedisUnavailableError.
    """
    partition = partition_of(row["id"], redis.partitions)
    keys = [partition_keys(partition).state, batch_keys(partition, row["id"]).batch]
    starts_at, ends_at = (at and to_ms(at) for at in (row["starts_at"], row["ends_at"]))
    reply = await redis.run(
        PUT_BATCH,
        keys,
        [
            row["revision"],
            "open" if row["ended_at"] is None else "ended",
            int(row["paused"]),
            "" if starts_at is None else starts_at,
            "" if ends_at is None else ends_at,
            rules.packed(),
            rebuilding or closing_reason(row),
            row["coupon"],
        ],
    )
    if reply[0] in (b"DONE", b"REBUILT"):
        return bool(reply[0] == b"DONE")
    # A recovery has written a later revision; or Postgres was rolled back, which an operator must resolve.
    raise NotReadyError(
        f"Redis has revision {reply[1].decode()} of batch {row['id']}, Postgres has {row['revision']};"
        " if this persists, Postgres was rolled back"
    )

"""A revision of a batch or a coupon, as redeem.lua reads it from Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from issuer.batches.rules import parse_rules_text
from issuer.batches.window_rebuild import Span
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import PUT_BATCH
from issuer.instants import to_ms
from issuer.storage.lineage import Lineage, read_tokens
from issuer.storage.redis_link import NotReadyError, ScriptCall, ScriptRunner, Value

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


class SupersededError(NotReadyError):
    """Redis has this revision of a batch or a later one, and it is another: see `token`."""

    def __init__(self, revision: BatchRevision, number: int, token: bytes) -> None:
        super().__init__(f"Redis has revision {number} of batch {revision.batch_id}, Postgres had {revision.number}")
        self.tokens = read_tokens([token])


@dataclass(frozen=True, slots=True)
class BatchRevision:
    """One revision of a batch (a row of FOR_REDIS), ready to be written to Redis.

    `span`: the part of a window that the limits need; None: there are no limits. `closed`: the field `rebuilding` of
    the batch while nothing is rebuilt; '' opens it.
    """

    batch_id: UUID
    partition: int
    number: int
    token: UUID
    span: Span | None
    closed: str
    _keys: list[str | bytes]
    _before: list[Value]
    _coupon: str

    @classmethod
    def of_row(cls, row: asyncpg.Record, partitions: int) -> BatchRevision:
        """Return the revision of a row of FOR_REDIS, in an installation with that many partitions."""
        rules, batch_id = parse_rules_text(row["rules"]), row["id"]
        partition = partition_of(batch_id, partitions)
        starts_at, ends_at = (at and to_ms(at) for at in (row["starts_at"], row["ends_at"]))
        return cls(
            batch_id,
            partition,
            row["revision"],
            UUID(bytes=row["token"].bytes),
            Span.of(rules),
            "unopened" if row["unopened"] else "",
            [partition_keys(partition).state, batch_keys(partition, batch_id).batch],
            [
                row["revision"],
                "open" if row["ended_at"] is None else "ended",
                int(row["paused"]),
                "" if starts_at is None else starts_at,
                "" if ends_at is None else ends_at,
                rules.packed(),
            ],
            row["coupon"],
        )

    def call(self, *, closes: bool = False) -> ScriptCall:
        """Return the call of PUT_BATCH that writes the revision."""
        closed = self.token.hex if closes else self.closed
        return self._keys, [*self._before, closed, self._coupon, self.token.hex]

    async def put(self, redis: ScriptRunner, lineage: Lineage, *, closes: bool = False) -> bool:
        """Write the revision to Redis. With `closes` the batch answers 503 until it is written without.

        `lineage` notes the token of the revision that it replaces: Postgres must know it. Returns False if the call was
        to close the batch and Redis already has it open at this revision: its windows are rebuilt.

        Raises SupersededError, NotReadyError and RedisUnavailableError.
        """
        reply = await redis.run(PUT_BATCH, *self.call(closes=closes))
        if reply[0] == b"SUPERSEDED":
            raise SupersededError(self, int(reply[1]), reply[2])
        if reply[0] == b"DONE":
            lineage.see([reply[1]])
        return bool(reply[0] == b"DONE")

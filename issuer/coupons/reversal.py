"""Reverse a use of a coupon, once: for example after a failed payment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog

from issuer.batches.revisions import push_batch
from issuer.coupons.coupon import CouponError
from issuer.coupons.uses import ConsumptionId, parse_consumption_id
from issuer.instants import show_instant
from issuer.ledger.erasure import BacklogNotEmptyError
from issuer.pools.counters import NOT_IN_REDIS, read_pool_counters
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import PostgresUnavailableError, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

POLL_S: Final = 0.1


class ConsumptionNotFoundError(CouponError):
    """The use does not exist, or the caller may not see it."""


class AlreadyReversedError(CouponError):
    """The use was reversed before."""


@dataclass(frozen=True, slots=True)
class Reversal:
    """A reversed use."""

    consumption_id: str
    code: str
    order_id: str | None
    reversed_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the reversal as the API and the command line show it."""
        return {
            "reversed": True,
            "consumption_id": self.consumption_id,
            "code": self.code,
            "order_id": self.order_id,
            "reversed_at": show_instant(self.reversed_at),
        }


_COUPON: Final = """
SELECT c.batch_id, c.client_id, c.code FROM coupons c
WHERE c.pool_id = $1 AND ($2::uuid IS NULL OR c.client_id = $2)"""

_USE: Final = "SELECT call_id, order_id FROM consumptions WHERE pool_id = $1 AND seq = $2"

_REVERSE: Final = """
INSERT INTO reversals (pool_id, seq, actor) VALUES ($1, $2, $3)
ON CONFLICT (pool_id, seq) DO NOTHING RETURNING reversed_at"""

_ADD_USE: Final = """
WITH coupon AS (
  UPDATE coupons SET reversed = reversed + 1 WHERE pool_id = $1
  RETURNING batch_id, available + reversed + released AS uses
), pool AS (
  UPDATE pools SET total = greatest(total, uses), loaded = CASE WHEN opened THEN greatest(total, uses) ELSE loaded END
  FROM coupon WHERE pools.id = $1
)
UPDATE batches SET revision = revision + 1 FROM coupon WHERE id = coupon.batch_id AND ended_at IS NULL"""


async def reverse_use(
    stores: Stores,
    consumption_id: str,
    *,
    client_id: UUID | None = None,
    actor: str,
    wait_s: float = 5.0,
    act: Act[Reversal] = UNKEPT,
) -> Reversal:
    """Reverse a use: the coupon gets one more use, and the customer's limits no longer count this one.

    The reversal holds once Postgres has stored it; the worker pushes it later if Redis is unavailable. Raises
    ConsumptionNotFoundError, AlreadyReversedError, BacklogNotEmptyError (the use is not in the ledger after `wait_s`),
    RedisUnavailableError and PostgresUnavailableError; nothing was changed then.
    """
    name = parse_consumption_id(consumption_id)
    if name is None:
        raise ConsumptionNotFoundError("no consumption found")
    async with unavailable_translated():
        coupon = await stores.postgres.fetchrow(_COUPON, name.pool_id, client_id)
    if coupon is None:
        raise ConsumptionNotFoundError("no consumption found")
    use = await _await_use(stores, name, coupon, wait_s)
    async with act.transaction(stores.postgres) as connection:
        reversed_at = await connection.fetchval(_REVERSE, name.pool_id, name.seq, actor)
        if reversed_at is None:
            raise AlreadyReversedError("the consumption was reversed before")
        await connection.execute(_ADD_USE, name.pool_id)
        reversal = Reversal(consumption_id, coupon["code"], use["order_id"], reversed_at)
        await act.keep(connection, reversal)
    try:
        await push_batch(stores, UUID(bytes=coupon["batch_id"].bytes))
    except (RedisUnavailableError, PostgresUnavailableError) as error:
        log.warning("reversal not pushed to Redis; the worker will retry", pool_id=name.pool_id, error=str(error))
    return reversal


async def _await_use(stores: Stores, name: ConsumptionId, coupon: Any, wait_s: float) -> Any:
    """Return the row of the use; wait for it while its event is in the backlog."""
    give_up_at = time.monotonic() + wait_s
    while True:
        async with unavailable_translated():
            use = await stores.postgres.fetchrow(_USE, name.pool_id, name.seq)
        if use is not None:
            if not name.is_of(use["call_id"].hex):
                raise ConsumptionNotFoundError("no consumption found")
            return use
        if not await _is_unrecorded(stores, name, coupon):
            raise ConsumptionNotFoundError("no consumption found")
        if time.monotonic() > give_up_at:
            raise BacklogNotEmptyError("the consumption is not in the ledger yet; is the worker running?")
        await asyncio.sleep(POLL_S)


async def _is_unrecorded(stores: Stores, name: ConsumptionId, coupon: Any) -> bool:
    """Return whether the seq was issued but is neither in the ledger nor quarantined."""
    pool = (UUID(bytes=coupon["batch_id"].bytes), UUID(bytes=coupon["client_id"].bytes))
    (counters,) = await read_pool_counters(stores.redis, [pool])
    if name.seq > (counters or NOT_IN_REDIS).issued:
        return False
    async with unavailable_translated():
        quarantined = await stores.postgres.fetchval(
            "SELECT EXISTS (SELECT FROM quarantined WHERE pool_id = $1 AND seq = $2)", name.pool_id, name.seq
        )
    return not quarantined

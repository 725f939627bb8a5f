"""Coupons: made, changed, deleted (for look-ups, never from the ledger), found. Postgres decides, Redis follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import orjson
import structlog

from issuer.access import audit
from issuer.batches.revisions import push_batch
from issuer.coupons.coupon import (
    COUPONS,
    Coupon,
    CouponDeletedError,
    CouponExistsError,
    CouponNotFoundError,
    CouponTerms,
    CouponUsedError,
    ManyClientsError,
    coupon_from_row,
)
from issuer.coupons.folding import coupon_id, fold, fold_fully
from issuer.pools.counters import NOT_IN_REDIS, read_pool_counters
from issuer.pools.loader import load_pool
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import PoolError
from issuer.storage.postgres import Pool, PoolConnection, PostgresUnavailableError, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

_MAKE_BATCH: Final = """
INSERT INTO batches (id, kind, name, rules, ends_at, paused) VALUES ($1, 'coupon', $2, $3::text::jsonb, $4, $5)
ON CONFLICT (id) DO NOTHING RETURNING id"""

_MAKE_POOL: Final = "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3) RETURNING id"

_MAKE_COUPON: Final = """
INSERT INTO coupons (batch_id, pool_id, client_id, code, folded, fully_folded, unambiguous, available, product_id,
  promo_type, discount_fixed, currency, discount_variable)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""

_NOTE_TERMS: Final = "INSERT INTO coupon_terms (pool_id, number, terms) VALUES ($1, $2, $3)"


async def create_coupon(
    stores: Stores, client_id: UUID, code: str, offer: CouponTerms, *, unambiguous: bool = False, actor: str
) -> Coupon:
    """Makes a coupon. Once Postgres has it it is made: what keeps it from Redis the worker makes up for later.

    `unambiguous`: look-ups read O as 0, and I and L as 1. Raises CouponExistsError, also for a code that differs from
    one of the client's in nothing else than that, and PostgresUnavailableError.
    """
    folded = fold(code)
    fully_folded, offer = fold_fully(folded), offer.with_currency()
    batch_id = coupon_id(client_id, fully_folded)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        made = await connection.fetchval(
            _MAKE_BATCH, batch_id, code, offer.rules.to_text(), offer.expires_at, offer.paused
        )
        if made is None:
            raise CouponExistsError("the client has, or had, a coupon with this code or one that reads like it")
        pool_id = await connection.fetchval(_MAKE_POOL, batch_id, client_id, offer.available)
        await connection.execute(
            _MAKE_COUPON, batch_id, pool_id, client_id, code, folded, fully_folded, unambiguous, offer.available,
            offer.product_id, offer.promo_type, offer.discount_fixed, offer.currency, offer.discount_variable,
        )  # fmt: skip
        await _note_terms(connection, pool_id, 1, offer, code)
        detail = {"code": code, "client_id": client_id, **offer.shown()}
        await audit.record(connection, actor=actor, action="coupon.create", subject=f"coupon:{batch_id}", detail=detail)
        coupon = await _coupon(connection, batch_id)
    try:
        await push_batch(stores, batch_id)
        await load_pool(stores, pool_id)
        # Closed until here: no use may be taken from a pool that Postgres does not know to be open.
        await push_batch(stores, batch_id)
        return await _coupon(stores.postgres, batch_id)
    except (RedisUnavailableError, RedisMemoryError, PoolError, PostgresUnavailableError) as error:
        log.warning("coupon is not in Redis yet", coupon_id=str(batch_id), error=str(error))
        return coupon


async def find_coupon(postgres: Pool, code: str, *, client_id: UUID | None = None) -> Coupon:
    """The coupon that a code leads to, deleted ones too.

    Raises CouponNotFoundError, and ManyClientsError where `client_id` is needed to tell.
    """
    found = await find_coupons(postgres, code, client_id=client_id)
    if not found:
        raise CouponNotFoundError("no coupon found")
    if len(found) > 1:
        raise ManyClientsError("several clients have a coupon with this code: give client_id")
    return found[0]


async def find_coupons(postgres: Pool, code: str, *, client_id: UUID | None = None) -> Sequence[Coupon]:
    """Those of every client, or of one; two of them at most are of use to anybody, so there are no more."""
    folded = fold(code)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{COUPONS} WHERE c.fully_folded = $1 AND (c.unambiguous OR c.folded = $2)"
            " AND ($3::uuid IS NULL OR c.client_id = $3) LIMIT 2",
            fold_fully(folded), folded, client_id,
        )  # fmt: skip
    return [coupon_from_row(row) for row in rows]


async def numbered_uses(stores: Stores, coupon: Coupon) -> int:
    """How many uses were numbered so far, quarantined ones among them. Raises RedisUnavailableError."""
    if coupon.final_issued is not None:
        return coupon.final_issued
    (counters,) = await read_pool_counters(stores.redis, [(coupon.id, coupon.client_id)])
    return (counters or NOT_IN_REDIS).issued


async def change_coupon(
    stores: Stores, coupon: Coupon, changes: Callable[[CouponTerms], Mapping[str, Any]], *, actor: str
) -> Coupon:
    """Changes fields of the offer and returns the coupon when Redis knows: they count from the next request on.

    `changes` says which, of the offer as it is while nobody else can change it. Raises what that does, and
    CouponDeletedError, CouponUsedError (fewer uses than there were), PostgresUnavailableError. With
    RedisUnavailableError the change may have been made, and the worker brings it to Redis.
    """
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        before = await _locked(connection, coupon.id)
        offer = replace(before.offer, **changes(before.offer)).with_currency()
        if before.ended_at is not None:
            raise CouponDeletedError("the coupon was deleted, and that is final")
        lowered = offer.available < before.offer.available
        if lowered:
            await _check_used(stores, before, offer)
        if offer != before.offer:
            await _update(connection, before, offer, actor)
    await push_batch(stores, coupon.id)
    if lowered:
        await _catch_up(stores, coupon)
    return await _coupon(stores.postgres, coupon.id)


_END: Final = """
UPDATE batches SET ended_at = now(), revision = revision + 1 WHERE id = $1 AND ended_at IS NULL RETURNING id"""


async def delete_coupon(stores: Stores, coupon: Coupon, *, actor: str) -> Coupon:
    """No use is possible from here on, and none of its code ever again. To repeat it changes nothing."""
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        await _locked(connection, coupon.id)
        ended = await connection.fetchval(_END, coupon.id)
        if ended is not None:
            await connection.execute("UPDATE coupons SET updated_at = now() WHERE batch_id = $1", coupon.id)
            subject, detail = f"coupon:{coupon.id}", {"code": coupon.code}
            await audit.record(connection, actor=actor, action="coupon.delete", subject=subject, detail=detail)
    await push_batch(stores, coupon.id)
    return await _coupon(stores.postgres, coupon.id)


async def _check_used(stores: Stores, coupon: Coupon, offer: CouponTerms) -> None:
    used = await numbered_uses(stores, coupon) - coupon.reversed - coupon.released
    if offer.available < used:
        raise CouponUsedError(f"{used} uses of the coupon were taken already: availability_count cannot be lower")


async def _catch_up(stores: Stores, coupon: Coupon) -> None:
    """Uses that came between the look and the change that took them away are there: they count as available."""
    # In this order: whatever is given back meanwhile is one more use, and nobody takes any while there are too few.
    numbered = await numbered_uses(stores, coupon)
    coupon = await _coupon(stores.postgres, coupon.id)
    missing = numbered - coupon.uses
    if missing > 0:
        async with unavailable_translated():
            # Unless somebody has changed it again meanwhile, and looks himself. Given-back uses may have come, too.
            await stores.postgres.execute(_CATCH_UP, coupon.id, coupon.offer.available, missing)
        await push_batch(stores, coupon.id)


_CATCH_UP: Final = """
WITH coupon AS (
  UPDATE coupons SET available = available + $3 WHERE batch_id = $1 AND available = $2
  RETURNING batch_id, pool_id, available + reversed + released AS uses
), pool AS (
  UPDATE pools SET total = greatest(total, uses), loaded = CASE WHEN opened THEN greatest(total, uses) ELSE loaded END
  FROM coupon WHERE pools.id = coupon.pool_id
)
UPDATE batches SET revision = revision + 1 FROM coupon WHERE id = coupon.batch_id"""


async def _locked(connection: PoolConnection, batch_id: UUID) -> Coupon:
    # The coupon first: whoever changes several of its rows does so in this order.
    await connection.execute("SELECT FROM coupons WHERE batch_id = $1 FOR NO KEY UPDATE", batch_id)
    row = await connection.fetchrow(f"{COUPONS} WHERE c.batch_id = $1", batch_id)
    assert row is not None
    return coupon_from_row(row)


_UPDATE_COUPON: Final = """
UPDATE coupons SET available = $2, product_id = $3, promo_type = $4, discount_fixed = $5, currency = $6,
  discount_variable = $7, terms = $8, updated_at = now() WHERE batch_id = $1"""

# The pool remembers the highest number that any use may ever have had.
_UPDATE_POOL: Final = """
UPDATE pools SET total = greatest(total, $2), loaded = CASE WHEN opened THEN greatest(total, $2) ELSE loaded END
WHERE id = $1"""

_UPDATE_BATCH: Final = """
UPDATE batches SET rules = $2::text::jsonb, ends_at = $3, paused = $4, revision = revision + 1,
  rules_revision = CASE WHEN $5 THEN revision + 1 ELSE rules_revision END WHERE id = $1"""


async def _update(connection: PoolConnection, before: Coupon, offer: CouponTerms, actor: str) -> None:
    number = before.terms_number
    if offer.terms(before.code) != before.offer.terms(before.code):
        number += 1
        await _note_terms(connection, before.pool_id, number, offer, before.code)
    await connection.execute(
        _UPDATE_COUPON, before.id, offer.available, offer.product_id, offer.promo_type, offer.discount_fixed,
        offer.currency, offer.discount_variable, number,
    )  # fmt: skip
    await connection.execute(_UPDATE_POOL, before.pool_id, offer.available + before.reversed + before.released)
    new_limits = offer.rules.packed() != before.offer.rules.packed()
    await connection.execute(
        _UPDATE_BATCH, before.id, offer.rules.to_text(), offer.expires_at, offer.paused, new_limits
    )
    old, new = before.offer.shown(), offer.shown()
    detail = {name: {"from": old[name], "to": value} for name, value in new.items() if value != old[name]}
    await audit.record(connection, actor=actor, action="coupon.change", subject=f"coupon:{before.id}", detail=detail)


async def _note_terms(connection: PoolConnection, pool_id: int, number: int, offer: CouponTerms, code: str) -> None:
    await connection.execute(_NOTE_TERMS, pool_id, number, orjson.dumps(offer.terms(code)).decode())


async def _coupon(postgres: Pool | PoolConnection, batch_id: UUID) -> Coupon:
    async with unavailable_translated():
        row = await postgres.fetchrow(f"{COUPONS} WHERE c.batch_id = $1", batch_id)
    assert row is not None
    return coupon_from_row(row)

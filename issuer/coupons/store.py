"""Create, change, delete and find coupons. A deleted coupon stays in the ledger. Postgres decides; Redis is updated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import orjson
import structlog

from issuer.access import audit
from issuer.batches.placing import place_batch
from issuer.batches.revisions import push_batch
from issuer.coupons.coupon import (
    COUPONS,
    Coupon,
    CouponDeletedError,
    CouponExistsError,
    CouponNotFoundError,
    CouponTerms,
    ManyClientsError,
    coupon_from_row,
)
from issuer.coupons.folding import case_sensitive_id, coupon_id, fold, fold_fully
from issuer.instants import show_instant
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.pools.counters import NOT_IN_REDIS, read_pool_counters
from issuer.pools.loader import load_pool
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import PoolError
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import (
    COUPON_LOCK,
    Pool,
    PoolConnection,
    PostgresUnavailableError,
    lock_of,
    unavailable_translated,
)
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

_INSERT_BATCH: Final = """
INSERT INTO batches (id, partition, kind, name, rules, ends_at, paused)
VALUES ($1, $2, 'coupon', $3, $4::text::jsonb, $5, $6)
ON CONFLICT (id) DO NOTHING RETURNING id"""

_INSERT_POOL: Final = "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3) RETURNING id"

_INSERT_COUPON: Final = """
INSERT INTO coupons (batch_id, pool_id, client_id, code, folded, fully_folded, unambiguous, case_sensitive,
  available, product_id, promo_type, discount_fixed, currency, discount_variable)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"""

_CONFUSED: Final = """
SELECT EXISTS (SELECT FROM coupons WHERE client_id = $1 AND fully_folded = $2 AND NOT (case_sensitive AND $3))"""

_INSERT_TERMS: Final = "INSERT INTO coupon_terms (pool_id, number, terms) VALUES ($1, $2, $3)"


async def create_coupon(
    stores: Stores,
    client_id: UUID,
    code: str,
    terms: CouponTerms,
    *,
    unambiguous: bool = False,
    case_sensitive: bool = False,
    actor: str,
    act: Act[Coupon] = UNKEPT,
) -> Coupon:
    """Create a coupon. It is created once Postgres has stored it; the worker pushes it later if Redis is unavailable.

    `unambiguous`: look-ups read O as 0, and I and L as 1. `case_sensitive`, which excludes that: they distinguish upper
    and lower case. Raises CouponExistsError, also for a code that differs from an existing one of the client only in
    these letters or in case, unless both coupons are case-sensitive, and PostgresUnavailableError.
    """
    folded, fully_folded = fold(code, case_sensitive=case_sensitive), fold_fully(fold(code))
    terms, ignoring_case = terms.with_currency(), coupon_id(client_id, fully_folded)
    batch_id = case_sensitive_id(client_id, folded) if case_sensitive else ignoring_case
    async with act.transaction(stores.postgres) as connection:
        # Of two coupons that could be confused, the second one sees the first.
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *lock_of(COUPON_LOCK, ignoring_case))
        _, partition = await place_batch(connection, batch_id)
        confused = await connection.fetchval(_CONFUSED, client_id, fully_folded, case_sensitive)
        if confused or not await connection.fetchval(
            _INSERT_BATCH, batch_id, partition, code, terms.rules.to_text(), terms.expires_at, terms.paused
        ):
            raise CouponExistsError("the client has, or had, a coupon with this code or one that reads like it")
        pool_id = await connection.fetchval(_INSERT_POOL, batch_id, client_id, terms.available)
        await connection.execute(
            _INSERT_COUPON, batch_id, pool_id, client_id, code, folded, fully_folded, unambiguous,
            case_sensitive, terms.available, terms.product_id, terms.promo_type, terms.discount_fixed, terms.currency,
            terms.discount_variable,
        )  # fmt: skip
        await _store_terms(connection, pool_id, 1, terms, code)
        detail = {"code": code, "client_id": client_id, "case_sensitive": case_sensitive, **terms.to_json()}
        await audit.record(connection, actor=actor, action="coupon.create", subject=f"coupon:{batch_id}", detail=detail)
        coupon = await _read_coupon(connection, batch_id)
        await act.keep(connection, coupon)
    try:
        await push_batch(stores, batch_id)
        await load_pool(stores, pool_id)
        # The coupon stays closed until here: Postgres must know that the pool is open before the first use.
        await push_batch(stores, batch_id)
        return await _read_coupon(stores.postgres, batch_id)
    except (RedisUnavailableError, RedisMemoryError, PoolError, PostgresUnavailableError) as error:
        log.warning("coupon not pushed to Redis; the worker will retry", coupon_id=str(batch_id), error=str(error))
        return coupon


async def find_coupon(postgres: Pool, code: str, *, client_id: UUID | None = None) -> Coupon:
    """Return the coupon of a code, also if it was deleted.

    Raises CouponNotFoundError, and ManyClientsError if several clients have the code and `client_id` is not given.
    """
    coupons = await find_coupons(postgres, code, client_id=client_id)
    if not coupons:
        raise CouponNotFoundError("no coupon found")
    if len(coupons) > 1:
        raise ManyClientsError("several clients have a coupon with this code: give client_id")
    return coupons[0]


async def find_coupon_by_id(postgres: Pool, coupon_id: UUID, *, client_id: UUID | None = None) -> Coupon:
    """Return a coupon, also if it was deleted. Raises CouponNotFoundError, also for one of another client."""
    async with unavailable_translated():
        row = await postgres.fetchrow(
            f"{COUPONS} WHERE c.batch_id = $1 AND ($2::uuid IS NULL OR c.client_id = $2)", coupon_id, client_id
        )
    if row is None:
        raise CouponNotFoundError("no coupon found")
    return coupon_from_row(row)


async def find_coupons(postgres: Pool, code: str, *, client_id: UUID | None = None) -> Sequence[Coupon]:
    """Return at most two coupons of a code, of all clients or of one: two suffice to see that it is ambiguous."""
    folded = fold(code)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{COUPONS} WHERE c.fully_folded = $1"
            " AND (c.unambiguous OR c.folded = CASE WHEN c.case_sensitive THEN $2 ELSE $3 END)"
            " AND ($4::uuid IS NULL OR c.client_id = $4) LIMIT 2",
            fold_fully(folded), fold(code, case_sensitive=True), folded, client_id,
        )  # fmt: skip
    return [coupon_from_row(row) for row in rows]


async def count_used(stores: Stores, coupon: Coupon) -> int:
    """Return how many uses count against the number available. Raises RedisUnavailableError.

    Those that were granted and not reversed, and quarantined ones that were not released. They are more than are
    available if the number was lowered later.
    """
    (used,) = await count_used_of_each(stores, [coupon])
    return used


async def count_used_of_each(stores: Stores, coupons: Sequence[Coupon]) -> list[int]:
    """Return `count_used` of each of the coupons, read at once."""
    in_redis = [coupon for coupon in coupons if coupon.opened and coupon.final_issued is None]
    found = await read_pool_counters(stores.redis, [(coupon.id, coupon.client_id) for coupon in in_redis])
    issued = {coupon.id: (counters or NOT_IN_REDIS).issued for coupon, counters in zip(in_redis, found, strict=True)}
    return [
        issued.get(coupon.id, coupon.final_issued or 0) - coupon.reversed - coupon.released if coupon.opened else 0
        for coupon in coupons
    ]


async def list_coupons(
    postgres: Pool, *, client_id: UUID | None, ended: bool, limit: int = 100, cursor: str | None = None
) -> Page[Coupon]:
    """Return one page of the coupons, oldest first; with `ended` also expired and deleted ones.

    Raises InvalidCursorError and PostgresUnavailableError.
    """
    (after,) = decode_cursor("coupons", cursor, (int,)) if cursor else (0,)
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, after, client_id, ended, limit + 1)
    coupons = [coupon_from_row(row) for row in rows]
    return Page.of(coupons, limit, lambda last: encode_cursor("coupons", (last.pool_id,)))


_LIST: Final = f"""
{COUPONS} WHERE c.pool_id > $1 AND ($2::uuid IS NULL OR c.client_id = $2)
  AND ($3 OR b.ended_at IS NULL AND (b.ends_at IS NULL OR b.ends_at > now()))
ORDER BY c.pool_id LIMIT $4"""


async def show_coupon(stores: Stores, coupon: Coupon) -> dict[str, Any]:
    """Return a coupon as the API and the command line show it. Raises RedisUnavailableError."""
    return show_with_uses(coupon, await count_used(stores, coupon))


def show_with_uses(coupon: Coupon, used: int) -> dict[str, Any]:
    """Return a coupon as `show_coupon` does, with what `count_used` returned."""
    remaining = max(0, coupon.terms.available - used)
    return {
        "id": coupon.id,
        "client_id": coupon.client_id,
        "client_name": coupon.client_name,
        "code": coupon.code,
        "code_length": len(coupon.code),
        "case_sensitive": coupon.case_sensitive,
        **coupon.terms.to_json(),
        "valid": remaining > 0 and not coupon.expired and not coupon.terms.paused,
        "remaining": remaining,
        "used": used,
        "reversed": coupon.reversed,
        **coupon.rate.to_json(),
        "deleted": coupon.ended_at is not None,
        "created_at": show_instant(coupon.created_at),
        "updated_at": show_instant(coupon.updated_at),
    }


async def change_coupon(
    stores: Stores, coupon: Coupon, changes: Callable[[CouponTerms], Mapping[str, Any]], *, actor: str
) -> Coupon:
    """Change terms of a coupon. Return it when Redis has the change, which counts from the next request on.

    `changes` returns the new values; it is called with the current terms while the coupon is locked. Fewer uses than
    were taken already stop the coupon. Raises what `changes` raises, CouponDeletedError, PostgresUnavailableError. On
    RedisUnavailableError the change may be stored; the worker then pushes it.
    """
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        before = await _lock_coupon(connection, coupon.id)
        terms = replace(before.terms, **changes(before.terms)).with_currency()
        if before.ended_at is not None:
            raise CouponDeletedError("the coupon was deleted, and that is final")
        if terms != before.terms:
            await _update(connection, before, terms, actor)
    await push_batch(stores, coupon.id)
    return await _read_coupon(stores.postgres, coupon.id)


_END: Final = """
UPDATE batches SET ended_at = now(), revision = revision + 1 WHERE id = $1 AND ended_at IS NULL RETURNING id"""


async def delete_coupon(stores: Stores, coupon: Coupon, *, actor: str) -> Coupon:
    """Delete a coupon: no use is possible any more, and its code cannot be used again. Idempotent."""
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        await _lock_coupon(connection, coupon.id)
        ended = await connection.fetchval(_END, coupon.id)
        if ended is not None:
            await connection.execute("UPDATE coupons SET updated_at = now() WHERE batch_id = $1", coupon.id)
            subject, detail = f"coupon:{coupon.id}", {"code": coupon.code}
            await audit.record(connection, actor=actor, action="coupon.delete", subject=subject, detail=detail)
    await push_batch(stores, coupon.id)
    return await _read_coupon(stores.postgres, coupon.id)


async def _lock_coupon(connection: PoolConnection, batch_id: UUID) -> Coupon:
    # Lock the coupon's row first: every transaction that changes several of its rows uses this order.
    await connection.execute("SELECT FROM coupons WHERE batch_id = $1 FOR NO KEY UPDATE", batch_id)
    row = await connection.fetchrow(f"{COUPONS} WHERE c.batch_id = $1", batch_id)
    assert row is not None
    return coupon_from_row(row)


_UPDATE_COUPON: Final = """
UPDATE coupons SET available = $2, product_id = $3, promo_type = $4, discount_fixed = $5, currency = $6,
  discount_variable = $7, terms = $8, updated_at = now() WHERE batch_id = $1"""

# The pool stores the highest seq that a use can ever have had.
_UPDATE_POOL: Final = """
UPDATE pools SET total = greatest(total, $2), loaded = CASE WHEN opened THEN greatest(total, $2) ELSE loaded END
WHERE id = $1"""

_UPDATE_BATCH: Final = """
UPDATE batches SET rules = $2::text::jsonb, ends_at = $3, paused = $4, revision = revision + 1,
  rules_revision = CASE WHEN $5 THEN revision + 1 ELSE rules_revision END WHERE id = $1"""


async def _update(connection: PoolConnection, before: Coupon, terms: CouponTerms, actor: str) -> None:
    number = before.terms_number
    if terms.for_use(before.code) != before.terms.for_use(before.code):
        number += 1
        await _store_terms(connection, before.pool_id, number, terms, before.code)
    await connection.execute(
        _UPDATE_COUPON, before.id, terms.available, terms.product_id, terms.promo_type, terms.discount_fixed,
        terms.currency, terms.discount_variable, number,
    )  # fmt: skip
    await connection.execute(_UPDATE_POOL, before.pool_id, terms.available + before.reversed + before.released)
    new_limits = terms.rules.packed() != before.terms.rules.packed()
    await connection.execute(
        _UPDATE_BATCH, before.id, terms.rules.to_text(), terms.expires_at, terms.paused, new_limits
    )
    old, new = before.terms.to_json(), terms.to_json()
    detail = {name: {"from": old[name], "to": value} for name, value in new.items() if value != old[name]}
    await audit.record(connection, actor=actor, action="coupon.change", subject=f"coupon:{before.id}", detail=detail)


async def _store_terms(connection: PoolConnection, pool_id: int, number: int, terms: CouponTerms, code: str) -> None:
    await connection.execute(_INSERT_TERMS, pool_id, number, orjson.dumps(terms.for_use(code)).decode())


async def _read_coupon(postgres: Pool | PoolConnection, batch_id: UUID) -> Coupon:
    async with unavailable_translated():
        row = await postgres.fetchrow(f"{COUPONS} WHERE c.batch_id = $1", batch_id)
    assert row is not None
    return coupon_from_row(row)

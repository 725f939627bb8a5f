"""Stock to redeem from: batches made as the API makes them, codes made by Postgres, which is quicker than a file.

A pool can be made as one that has been in use for long: its first codes are in the ledger, each with a customer of
its own, before the pool is opened in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

from issuer.batches.rules import parse_rules
from issuer.batches.store import create_batch
from issuer.coupons.coupon import Offer
from issuer.coupons.store import create_coupon
from issuer.loading.pools import load_pool
from issuer.postgres import PoolConnection
from issuer.stores import Stores
from loadtest.drivers import Target

ONE_EACH: Final = {"maxpercustomer": 1}
"""The limit of every measured batch: one code a customer, for ever."""
AT_ONCE: Final = 6
STATEMENT_LIMIT_S: Final = 3_600.0

# 20 characters, as a code of a shop might have.
_CODE: Final = "'BENCH-' || lpad(to_hex($1::bigint), 5, '0') || lpad(to_hex(i), 9, '0')"

_CODES: Final = f"""
INSERT INTO codes (pool_id, seq, batch_id, code)
SELECT $1, i, $2, {_CODE} FROM generate_series($3::bigint, $4::bigint) AS i
"""
_LEDGER: Final = """
INSERT INTO redemptions
  (pool_id, seq, batch_id, code, customer_id, redeemed_at, call_id, key_hash, api_key_id, epoch)
SELECT pool_id, seq, batch_id, code, gen_random_uuid(), now() - interval '1 day' + seq * interval '1 microsecond',
  gen_random_uuid(), NULL, 1, 1
FROM codes WHERE pool_id = $1 AND seq <= $2
"""


async def make_pool(
    stores: Stores, codes: int, *, used: int = 0, batch_id: UUID | None = None, rules: dict[str, Any] | None = None
) -> Target:
    """One pool of `codes` codes, loaded up to the high-water mark, whose first `used` are in the ledger."""
    if batch_id is None:
        batch_rules = parse_rules(ONE_EACH if rules is None else rules)
        batch_id = (await create_batch(stores, name="benchmark", rules=batch_rules, actor="cli:bench")).id
    client_id = uuid4()
    async with stores.postgres.acquire() as connection:
        pool_id = await connection.fetchval(
            "INSERT INTO pools (batch_id, client_id) VALUES ($1, $2) RETURNING id", batch_id, client_id
        )
        # The worker opens a pool as soon as it has codes: what is used must be known by then.
        async with connection.transaction():
            await _add(connection, pool_id, batch_id, 1, codes)
            await connection.execute(_LEDGER, pool_id, used, timeout=STATEMENT_LIMIT_S)
    await load_pool(stores, pool_id)
    return Target(batch_id, client_id)


async def make_coupon(stores: Stores, code: str, uses: int) -> Target:
    """A coupon of a client of its own."""
    offer = Offer(uses, discount_variable=Decimal(20), rules=parse_rules(ONE_EACH))
    coupon = await create_coupon(stores, uuid4(), code, offer, actor="cli:bench")
    return Target(coupon.id, coupon.client_id)


async def add_codes(stores: Stores, target: Target, codes: int) -> None:
    """More codes behind the last one of the pool."""
    async with stores.postgres.acquire() as connection:
        row = await connection.fetchrow(
            "SELECT id, total FROM pools WHERE batch_id = $1 AND client_id = $2", target.batch_id, target.client_id
        )
        assert row is not None
        await _add(connection, row["id"], target.batch_id, row["total"] + 1, row["total"] + codes)
    await load_pool(stores, row["id"])


async def _add(connection: PoolConnection, pool_id: int, batch_id: UUID, first: int, last: int) -> None:
    async with connection.transaction():
        await connection.execute(_CODES, pool_id, batch_id, first, last, timeout=STATEMENT_LIMIT_S)
        await connection.execute("UPDATE pools SET total = $2 WHERE id = $1", pool_id, last)


async def make_pools(stores: Stores, count: int, codes: int, *, used: int = 0, one_batch: bool = False) -> list[Target]:
    """`count` such pools, each in a batch of its own or all in one."""
    batch_id = None
    if one_batch:
        batch_id = (await create_batch(stores, name="benchmark", rules=parse_rules(ONE_EACH), actor="cli:bench")).id
    turn = asyncio.Semaphore(AT_ONCE)

    async def make() -> Target:
        async with turn:
            return await make_pool(stores, codes, used=used, batch_id=batch_id)

    return list(await asyncio.gather(*(make() for _ in range(count))))


async def settle(stores: Stores) -> None:
    """Ends what a large load leaves to be done: statistics and a checkpoint that would fall into a measurement."""
    await stores.postgres.execute("ANALYZE codes", timeout=STATEMENT_LIMIT_S)
    await stores.postgres.execute("ANALYZE redemptions", timeout=STATEMENT_LIMIT_S)
    await stores.postgres.execute("CHECKPOINT", timeout=STATEMENT_LIMIT_S)


async def redeemed(stores: Stores, targets: Sequence[Target]) -> int:
    """Redemptions that the ledger has of these pools."""
    batches, clients = [t.batch_id for t in targets], [t.client_id for t in targets]
    count = await stores.postgres.fetchval(
        "SELECT count(*) FROM redemptions r JOIN pools p ON p.id = r.pool_id"
        " JOIN unnest($1::uuid[], $2::uuid[]) AS t(batch_id, client_id)"
        " ON t.batch_id = p.batch_id AND t.client_id = p.client_id",
        batches, clients, timeout=STATEMENT_LIMIT_S,
    )  # fmt: skip
    return int(count)

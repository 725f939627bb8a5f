"""Create stock to redeem from: batches as the API creates them, with codes that Postgres generates.

A pool can be created partly used: its first codes are in the ledger, each with its own customer, before the pool is
opened in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import uuid4

from issuer.batches.batch import NewBatch
from issuer.batches.rules import parse_rules
from issuer.batches.store import create_batch
from issuer.coupons.coupon import CouponTerms
from issuer.coupons.store import create_coupon
from issuer.pools.loader import load_pool
from issuer.storage.stores import Stores
from loadtest.drivers import Target

ONE_EACH: Final = {"maxpercustomer": 1}
"""The limit of every measured batch: one code per customer, indefinitely."""
MAX_CONCURRENT: Final = 6
STATEMENT_LIMIT_S: Final = 3_600.0

# 20 characters, a realistic length.
_CODE: Final = "'BENCH-' || lpad(to_hex($1::bigint), 5, '0') || lpad(to_hex(i), 9, '0')"

_CODES: Final = f"""
INSERT INTO codes (pool_id, seq, batch_id, client_id, code)
SELECT $1, i, $2, $4::uuid, {_CODE} FROM generate_series(1::bigint, $3::bigint) AS i
"""
_LEDGER: Final = """
INSERT INTO redemptions
  (pool_id, seq, batch_id, code, customer_id, redeemed_at, call_id, key_hash, api_key_id, epoch)
SELECT pool_id, seq, batch_id, code, gen_random_uuid(), now() - interval '1 day' + seq * interval '1 microsecond',
  gen_random_uuid(), NULL, 1, 1
FROM codes WHERE pool_id = $1 AND seq <= $2
"""


async def make_pool(stores: Stores, codes: int, *, used: int = 0) -> Target:
    """Create a batch with a pool of `codes` codes, loaded to the high-water mark; `used` are in the ledger."""
    batch_id = (await create_batch(stores, NewBatch("benchmark", parse_rules(ONE_EACH)), actor="cli:bench")).id
    client_id = uuid4()
    async with stores.postgres.acquire() as connection:
        pool_id = await connection.fetchval(
            "INSERT INTO pools (batch_id, client_id) VALUES ($1, $2) RETURNING id", batch_id, client_id
        )
        # The worker opens a pool as soon as it has codes, so the used ones are recorded in the same transaction.
        async with connection.transaction():
            await connection.execute(_CODES, pool_id, batch_id, codes, client_id, timeout=STATEMENT_LIMIT_S)
            await connection.execute("UPDATE pools SET total = $2 WHERE id = $1", pool_id, codes)
            await connection.execute(_LEDGER, pool_id, used, timeout=STATEMENT_LIMIT_S)
    await load_pool(stores, pool_id)
    return Target(batch_id, client_id)


async def make_coupon(stores: Stores, code: str, uses: int) -> Target:
    """Create a coupon of a new client."""
    offer = CouponTerms(uses, discount_variable=Decimal(20), rules=parse_rules(ONE_EACH))
    coupon = await create_coupon(stores, uuid4(), code, offer, actor="cli:bench")
    return Target(coupon.id, coupon.client_id)


async def make_pools(stores: Stores, count: int, codes: int, *, used: int = 0) -> list[Target]:
    """Create `count` pools, each in a batch of its own."""
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def make() -> Target:
        async with slots:
            return await make_pool(stores, codes, used=used)

    return list(await asyncio.gather(*(make() for _ in range(count))))


async def settle(stores: Stores) -> None:
    """Update statistics and write a checkpoint, which would otherwise run during a measurement."""
    await stores.postgres.execute("ANALYZE codes", timeout=STATEMENT_LIMIT_S)
    await stores.postgres.execute("ANALYZE redemptions", timeout=STATEMENT_LIMIT_S)
    await stores.postgres.execute("CHECKPOINT", timeout=STATEMENT_LIMIT_S)


async def redeemed(stores: Stores, targets: Sequence[Target]) -> int:
    """Return the number of redemptions of these pools in the ledger."""
    batches, clients = [t.batch_id for t in targets], [t.client_id for t in targets]
    count = await stores.postgres.fetchval(
        "SELECT count(*) FROM redemptions r JOIN pools p ON p.id = r.pool_id"
        " JOIN unnest($1::uuid[], $2::uuid[]) AS t(batch_id, client_id)"
        " ON t.batch_id = p.batch_id AND t.client_id = p.client_id",
        batches, clients, timeout=STATEMENT_LIMIT_S,
    )  # fmt: skip
    return int(count)

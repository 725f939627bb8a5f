"""The bound of the backlog: how many redemptions of a partition may wait for the ledger.

It is also the number of codes that a lost Redis can have issued without a record, and a recovery quarantines as many as
the bound in Postgres says. That bound must therefore never be below what any partition enforces: it is raised in
Postgres first, and lowered in Postgres last, once every backlog is within it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from issuer.access import audit
from issuer.contract.keys import partition_keys
from issuer.contract.scripts import SET_MAX_BACKLOG
from issuer.storage.postgres import unavailable_translated
from issuer.storage.stores import Stores

POLL_EVERY_S: Final = 0.2


_SET_BOUND: Final = """
UPDATE installation SET max_backlog = $1 WHERE $2::bigint IS NULL OR epoch = $2 RETURNING true"""


async def set_max_backlog(stores: Stores, bound: int, *, wait_s: float, actor: str) -> bool:
    """Change the bound in Redis and Postgres. False: Redis enforces it, but a backlog is still above it after `wait_s`.

    Postgres then keeps the old, higher bound, which is safe. Call again when the worker has caught up.
    """
    async with unavailable_translated():
        before = await stores.postgres.fetchval("SELECT max_backlog FROM installation")
    if bound > before:
        # Stopped after this: Postgres allows for more than Redis enforces, which costs codes only in a recovery.
        await _store(stores, bound, actor)
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        epoch = stores.redis.epoch
        is_within = await _apply(stores, bound) <= bound
        # A recovery in between has blessed the partitions with the bound in Postgres: they are lowered once more.
        if is_within and (bound >= before or await _store(stores, bound, actor, epoch=epoch)):
            return True
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(POLL_EVERY_S)


async def _apply(stores: Stores, bound: int) -> int:
    """Set the bound in every partition. Return the largest backlog."""
    backlogs = []
    for partition in range(stores.redis.partitions):
        reply = await stores.redis.run(SET_MAX_BACKLOG, [partition_keys(partition).state], [bound])
        backlogs.append(int(reply[1]))
    return max(backlogs)


async def _store(stores: Stores, bound: int, actor: str, *, epoch: int | None = None) -> bool:
    """Store the bound in Postgres. False: `epoch` was given and is not the present one, so nothing was changed."""
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        if not await connection.fetchval(_SET_BOUND, bound, epoch):
            return False
        await audit.record(
            connection, actor=actor, action="max_backlog.set", subject="installation", detail={"max_backlog": bound}
        )
    return True

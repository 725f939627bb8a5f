"""Pools on their way from Postgres to Redis: opened once, loaded exactly once and in order, topped up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import DEBUG, ERROR
from typing import Any, Final
from uuid import UUID

import structlog

from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import LOAD_CODES, OPEN_POOL, Script
from issuer.pools.counters import pool_metas
from issuer.pools.memory import RedisMemoryError, is_out_of_memory
from issuer.storage.postgres import (
    RECOVERY_LOCK,
    SEQ_LOCK,
    AnyConnection,
    advisory_lock,
    lock_of,
    unavailable_translated,
)
from issuer.storage.redis_link import RedisRefusedError
from issuer.storage.stores import Stores

log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 4_000
"""Codes pushed by one script call: some ms of Redis, between which redemptions get their turn."""
MAX_PER_TOP_UP: Final = 100_000
"""Codes that a top-up gives one pool before it looks at the next."""


class PoolError(Exception):
    """A pool that cannot be loaded as things are. Nothing was lost or skipped."""


class PoolNotFoundError(PoolError):
    """There is no such pool."""


class PoolClosedError(PoolError):
    """The batch has ended: no code of it goes to Redis any more."""


class BatchNotInRedisError(PoolError):
    """Redis does not know the batch (yet): bring the batch there, then load again."""


class PoolLostError(PoolError):
    """The pool was opened before and is gone from Redis: that takes a recovery, not a loader."""


class CodesMissingError(PoolError):
    """Postgres lacks codes between the last one loaded and the pool's total: a person must look."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A row of the table of pools. `loaded` is a hint: Redis itself knows how far it was loaded."""

    id: int
    batch_id: UUID
    client_id: UUID
    total: int
    opened: bool
    loaded: int
    of_coupon: bool


@dataclass(frozen=True, slots=True)
class LoadResult:
    """How a pool stands in Redis after a load, and how many codes this load pushed."""

    pool: Pool
    loaded: int
    issued: int
    pushed: int

    @property
    def in_redis(self) -> int:
        return self.loaded - self.issued


async def lock_seqs(connection: AnyConnection, batch_id: UUID) -> None:
    """Until the transaction ends nobody else who calls this gives seqs in the batch.

    Whoever adds codes holds it from reading a pool's total to raising it. It is not the pool's row that is locked,
    so that opening and topping up go on while a million codes are inserted.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *lock_of(SEQ_LOCK, batch_id), timeout=86_400)


_POOL = """
SELECT p.id, p.batch_id, p.client_id, p.total, p.opened, p.loaded, b.kind = 'coupon' AS of_coupon
FROM pools p JOIN batches b ON b.id = p.batch_id"""


async def find_pool(stores: Stores, pool_id: int) -> Pool:
    """Raises PoolNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await stores.postgres.fetchrow(f"{_POOL} WHERE p.id = $1", pool_id)
    if row is None:
        raise PoolNotFoundError(f"no pool {pool_id}")
    return Pool(**row)


async def load_pool(
    stores: Stores,
    pool_id: int,
    *,
    progress: Callable[[int], None] | None = None,
    most: int | None = None,
    give_way: bool = False,
) -> LoadResult:
    """Brings the total to Redis, then codes from the last one loaded on, until the high-water mark (or `most` codes).

    Opens the pool if it never was; of a coupon that is all, and its batch must be pushed then. May be repeated, killed
    and run twice at a time: each code is pushed once, in the order of the seqs. With `give_way` it stops when somebody
    else loads the same pool. `progress` is told how many codes went over.

    Raises RedisMemoryError, the PoolErrors, RedisUnavailableError, PostgresUnavailableError; what was pushed stays.
    """
    pool = await find_pool(stores, pool_id)
    loader = _Loader(stores, pool, progress)
    if not pool.opened:
        await loader.open()
    if pool.of_coupon:
        # Its uses are only counted: there is nothing to load, and how many there are comes with the batch.
        async with unavailable_translated():
            await stores.postgres.execute("UPDATE pools SET loaded = total WHERE id = $1", pool.id)
        return LoadResult(pool, 0, 0, 0)
    await loader.load(most, give_way=give_way)
    await loader.leave_hint()
    return LoadResult(pool, loader.loaded, loader.issued, loader.pushed)


@dataclass(frozen=True, slots=True)
class _CodeRun:
    first: int
    last: int
    codes: Sequence[bytes]


class _Loader:
    """One load of one pool."""

    def __init__(self, stores: Stores, pool: Pool, progress: Callable[[int], None] | None) -> None:
        self._stores = stores
        self._pool = pool
        self._progress = progress
        self._epoch = stores.redis.epoch
        partition = partition_of(pool.batch_id, stores.redis.partitions)
        keys = batch_keys(partition, pool.batch_id)
        self._keys = (partition_keys(partition).state, keys.batch, keys.pool(pool.client_id))
        self._codes_key = keys.codes(pool.client_id)
        self.loaded = self.issued = self.pushed = 0

    async def open(self) -> None:
        """Creates the pool's meta in Redis, then marks it as opened; codes come only after that.

        If we die between the two the next loader finds meta without codes and opens it again. A coupon, which has no
        codes, is closed until the mark is there: the mark is a new revision, which opens it. The lock keeps a recovery,
        which rebuilds only what is marked, from coming between.
        """
        async with (
            unavailable_translated(),
            self._stores.postgres.acquire() as connection,
            advisory_lock(connection, RECOVERY_LOCK, shared=True),
        ):
            issued = await connection.fetchval(_ACCOUNTED, self._pool.id)
            await self._run(OPEN_POOL, self._keys, (self._pool.id, issued, self._pool.total))
            await connection.execute(_MARK, self._pool.id)

    async def load(self, most: int | None, *, give_way: bool) -> None:
        await self._push(0, ())  # the total first: what is not loaded yet must not look sold out
        goal = self._goal(most)
        ahead: asyncio.Task[_CodeRun] | None = None
        try:
            while self.loaded < goal:
                chunk = await (ahead or self._read(self.loaded + 1, goal))
                ahead = None
                if chunk.last < goal:
                    ahead = asyncio.create_task(self._read(chunk.last + 1, goal), name="read-codes-ahead")
                if not await self._push(chunk.first, chunk.codes):
                    await _drop(ahead)
                    ahead = None
                    if give_way:
                        return
                goal = self._goal(most)
        finally:
            await _drop(ahead)

    def _goal(self, most: int | None) -> int:
        goal = min(self._pool.total, self.issued + self._stores.settings.pool_high_water)
        return goal if most is None else min(goal, self.loaded + most - self.pushed)

    async def _read(self, first: int, goal: int) -> _CodeRun:
        last = min(first + BATCH_SIZE - 1, goal)
        async with unavailable_translated():
            row = await self._stores.postgres.fetchrow(_NEXT_CODES, self._pool.id, first, last)
        assert row is not None
        codes = row["codes"].split(b"\x1f") if row["count"] else []
        if len(codes) != last - first + 1 or row["quarantined"]:
            raise CodesMissingError(
                f"pool {self._pool.id}: {len(codes)} codes where seqs {first} to {last} should be,"
                f" {row['quarantined']} of them quarantined"
            )
        return _CodeRun(first, last, codes)

    async def _push(self, first: int, codes: Sequence[bytes]) -> bool:
        """Whether the codes went over; if not, somebody else has pushed meanwhile."""
        reply = await self._run(LOAD_CODES, (*self._keys, self._codes_key), (first, self._pool.total, *codes))
        self.loaded, self.issued = int(reply[1]), int(reply[2])
        if reply[0] == b"OUT_OF_STEP":
            return False
        self.pushed += len(codes)
        if self._progress is not None and codes:
            self._progress(len(codes))
        return True

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes | int]) -> list[Any]:
        try:
            reply = await self._stores.redis.run(script, keys, args)
        except RedisRefusedError as error:
            if is_out_of_memory(error):
                raise RedisMemoryError(f"pool {self._pool.id}: Redis has reached maxmemory") from error
            raise
        match reply[0]:
            case b"DONE" | b"OUT_OF_STEP":
                return reply
            case b"ENDED":
                raise PoolClosedError(f"batch {self._pool.batch_id} has ended")
            case b"UNKNOWN_BATCH":
                raise BatchNotInRedisError(f"batch {self._pool.batch_id} is not in Redis")
            case b"NO_POOL":
                raise PoolLostError(f"pool {self._pool.id} is gone from Redis")
            case status:
                raise RuntimeError(f"{script.name}: unknown status {status!r}")

    async def leave_hint(self) -> None:
        """Tells top-ups how far the pool is loaded. Not worth waiting for; and a recovery, which lowers it, wins."""
        if self.loaded == self._pool.loaded:
            return
        async with unavailable_translated():
            await self._stores.postgres.execute(_HINT, self._pool.id, self._pool.loaded, self.loaded, self._epoch)


async def _drop(task: asyncio.Task[_CodeRun] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


_ACCOUNTED = """
SELECT greatest(0, (SELECT max(seq) FROM ledger WHERE pool_id = $1),
    (SELECT max(seq) FROM quarantined WHERE pool_id = $1), (SELECT max(seq) FROM dead_letters WHERE pool_id = $1))
"""

_MARK = """
WITH marked AS (UPDATE pools SET opened = true WHERE id = $1 AND NOT opened RETURNING batch_id)
UPDATE batches b SET revision = revision + 1 FROM marked WHERE b.id = marked.batch_id AND b.kind = 'coupon'"""

# One value instead of thousands of rows: a code holds no control characters, so US tells them apart. Seqs that are set
# aside lie below what Redis counts as issued; should one ever turn up here, it must not be handed out.
_NEXT_CODES = """
SELECT count(*) AS count, string_agg(convert_to(code, 'UTF8'), '\\x1f'::bytea ORDER BY seq) AS codes,
    (SELECT count(*) FROM quarantined
     WHERE pool_id = $1 AND seq BETWEEN $2 AND $3 AND released_at IS NULL) AS quarantined
FROM codes WHERE pool_id = $1 AND seq BETWEEN $2 AND $3
"""

_HINT = """
UPDATE pools SET loaded = $3 WHERE id = (
    SELECT id FROM pools WHERE id = $1 AND loaded = $2 FOR UPDATE SKIP LOCKED
) AND loaded = $2 AND EXISTS (SELECT 1 FROM installation WHERE epoch = $4)
"""

_OF_OPEN_BATCHES = f"""
{_POOL}
WHERE b.ended_at IS NULL AND (b.ends_at IS NULL OR b.ends_at > now()) AND p.total > 0
  AND (b.kind = 'codes' OR NOT p.opened)
"""
# The words of the index pools_not_loaded.
_NOT_LOADED = f"{_OF_OPEN_BATCHES} AND p.loaded < p.total"


async def top_up(stores: Stores, *, thorough: bool = False) -> int:
    """Fills up the pools that run low in Redis, the emptiest first; returns the number of codes pushed.

    Looks at pools which, by the hint, are not all in Redis; `thorough`: at all, whatever the hint says. With nothing
    to do it costs one query by an index. A pool that cannot be loaded does not stop the others; `thorough` logs it.

    Raises RedisMemoryError when Redis is full, RedisUnavailableError, PostgresUnavailableError: call again later.
    """
    async with unavailable_translated():
        rows = await stores.postgres.fetch(_OF_OPEN_BATCHES if thorough else _NOT_LOADED)
    pools = [Pool(**row) for row in rows]
    pushed = 0
    for pool in await _running_low(stores, pools):
        try:
            pushed += (await load_pool(stores, pool.id, most=MAX_PER_TOP_UP, give_way=True)).pushed
        except (PoolClosedError, BatchNotInRedisError):
            continue  # ended meanwhile, or on its way to Redis
        except PoolError as error:
            # Every tenth of a second would be too often to say it.
            log.log(ERROR if thorough else DEBUG, "pool cannot be topped up", pool_id=pool.id, error=str(error))
    return pushed


async def _running_low(stores: Stores, pools: Sequence[Pool]) -> list[Pool]:
    """Those which need a load: below the low-water mark, never opened, or with a total that Redis has not heard of."""
    low: list[tuple[int, Pool]] = []
    metas = await pool_metas(stores, [(pool.batch_id, pool.client_id) for pool in pools])
    for pool, meta in zip(pools, metas, strict=True):
        if meta is None:
            low.append((0, pool))
            continue
        is_low = meta.stock < stores.settings.pool_low_water and meta.loaded < pool.total
        hint_is_late = meta.loaded == pool.total != pool.loaded
        if is_low or meta.total < pool.total or hint_is_late:
            low.append((meta.stock, pool))
    return [pool for _, pool in sorted(low, key=lambda item: item[0])]

"""Loading a pool from Postgres into Redis: opened once, then every code pushed exactly once, in the order of seqs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from issuer.contract.elements import ELEMENT
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import LOAD_CODES, OPEN_POOL, Script
from issuer.pools.memory import RedisMemoryError, is_out_of_memory
from issuer.pools.pool import BatchNotInRedisError, CodesMissingError, Pool, PoolClosedError, PoolLostError, find_pool
from issuer.storage.postgres import RECOVERY_LOCK, advisory_lock, unavailable_translated
from issuer.storage.redis_link import RedisRefusedError
from issuer.storage.stores import Stores

BATCH_SIZE: Final = 4_000
"""Codes pushed by one script call: it takes Redis some milliseconds, and redemptions are served between two calls."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The counters of a pool in Redis after a load, and how many codes this load pushed."""

    pool: Pool
    loaded: int
    issued: int
    pushed: int

    @property
    def in_redis(self) -> int:
        return self.loaded - self.issued


async def load_pool(
    stores: Stores,
    pool_id: int,
    *,
    progress: Callable[[int], None] | None = None,
    most: int | None = None,
    give_way: bool = False,
) -> LoadResult:
    """Raise the total in Redis, then push codes from the last one loaded on, up to the high-water mark (or `most`).

    Opens the pool if it was not opened yet; a coupon needs nothing more, and its batch has to be pushed afterwards.
    The call may be repeated, killed at any point and run twice at the same time: each code is pushed once, in the order
    of the seqs. With `give_way` it stops when another process loads the same pool. `progress` is called with the
    number of codes of each push.

    Raises RedisMemoryError, the PoolErrors, RedisUnavailableError, PostgresUnavailableError; what was pushed stays.
    """
    pool = await find_pool(stores, pool_id)
    loader = PoolLoader(stores, pool, progress)
    if not pool.opened:
        await loader.open()
    if pool.of_coupon:
        # Consumptions are only counted: there is nothing to load, and their number is part of the batch's revision.
        async with unavailable_translated():
            await stores.postgres.execute("UPDATE pools SET loaded = total WHERE id = $1", pool.id)
        return LoadResult(pool, 0, 0, 0)
    await loader.load(most, give_way=give_way)
    await loader.leave_hint()
    return LoadResult(pool, loader.loaded, loader.issued, loader.pushed)


async def reopen_pool(stores: Stores, pool_id: int) -> None:
    """Open a pool behind what the ledger has of it. Nothing happens if its batch is not in Redis or has ended there.

    Raises the other PoolErrors, RedisUnavailableError, PostgresUnavailableError.
    """
    with suppress(BatchNotInRedisError, PoolClosedError):
        await PoolLoader(stores, await find_pool(stores, pool_id), None).open()


@dataclass(frozen=True, slots=True)
class _CodeRun:
    first: int
    last: int
    codes: Sequence[bytes]


class PoolLoader:
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
        self._resets = b"0"
        self.loaded = self.issued = self.pushed = 0

    async def open(self) -> None:
        """Create the pool's hash in Redis, then mark the pool as opened in Postgres; codes are pushed only after that.

        If the process stops between the two, the next loader finds a hash without codes and opens the pool again: the
        script leaves an existing hash as it is. A coupon has no codes; it stays closed until the mark is set, which is
        a new revision, and the push of that revision opens it. The lock keeps a recovery out of the gap: it rebuilds
        only pools that are marked.
        """
        async with (
            unavailable_translated(),
            self._stores.postgres.acquire() as connection,
            advisory_lock(connection, RECOVERY_LOCK, shared=True),
            connection.transaction(),
        ):
            # An import that records used codes of the pool holds its row until the ledger has them.
            await connection.execute(_LOCK, self._pool.id)
            issued = await connection.fetchval(_ACCOUNTED, self._pool.id)
            await self._run(OPEN_POOL, (*self._keys, self._codes_key), (self._pool.id, issued, self._pool.total))
            await connection.execute(_MARK, self._pool.id)

    async def load(self, most: int | None, *, give_way: bool) -> None:
        # The total first: while codes are missing, a drained pool must answer "refilling", not "sold out".
        await self._push(0, ())
        goal = self._goal(most)
        ahead: asyncio.Task[_CodeRun] | None = None
        try:
            while self.loaded < goal:
                run = await (ahead or self._read(self.loaded + 1, goal))
                ahead = None
                if run.last < goal:
                    # Postgres reads the next codes while Redis takes these.
                    ahead = asyncio.create_task(self._read(run.last + 1, goal), name="read-codes-ahead")
                if not await self._push(run.first, run.codes):
                    # Another loader was faster. What was read ahead may be behind `loaded` now: read again from there.
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
        """Return whether the codes were pushed; if not, another loader has pushed some, or the pool was reset."""
        keys, total = (*self._keys, self._codes_key), self._pool.total
        reply = await self._run(LOAD_CODES, keys, (first, total, self._resets, *codes))
        self.loaded, self.issued, self._resets = int(reply[1]), int(reply[2]), reply[3]
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
                raise PoolLostError(f"pool {self._pool.id} is missing in Redis")
            case status:
                raise RuntimeError(f"{script.name}: unknown status {status!r}")

    async def leave_hint(self) -> None:
        """Record in Postgres how far the pool is loaded, as a hint for top-ups.

        Skipped when the row is locked, since only top-ups need it, and when the epoch has changed: a recovery empties
        the lists and lowers the hint, and a late writer must not raise it again.
        """
        if self.loaded == self._pool.loaded:
            return
        async with unavailable_translated():
            await self._stores.postgres.execute(_HINT, self._pool.id, self._pool.loaded, self.loaded, self._epoch)


async def _drop(task: asyncio.Task[_CodeRun] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


_LOCK: Final = "SELECT FROM pools WHERE id = $1 FOR NO KEY UPDATE"
_ACCOUNTED: Final = """
SELECT greatest(0, (SELECT max(seq) FROM ledger WHERE pool_id = $1),
    (SELECT max(seq) FROM quarantined WHERE pool_id = $1), (SELECT max(seq) FROM dead_letters WHERE pool_id = $1))
"""

_MARK: Final = """
WITH marked AS (UPDATE pools SET opened = true WHERE id = $1 AND NOT opened RETURNING batch_id)
UPDATE batches b SET revision = revision + 1 FROM marked WHERE b.id = marked.batch_id AND b.kind = 'coupon'"""

# One value instead of thousands of rows: an element has no US, so it separates them. Quarantined seqs are
# below the `issued` of Redis, so a load never meets one; should that ever happen, the load stops before it is issued.
_NEXT_CODES: Final = f"""
SELECT count(*) AS count,
    string_agg(convert_to({ELEMENT.format(table="codes")}, 'UTF8'), '\\x1f'::bytea ORDER BY seq) AS codes,
    (SELECT count(*) FROM quarantined
     WHERE pool_id = $1 AND seq BETWEEN $2 AND $3 AND released_at IS NULL) AS quarantined
FROM codes WHERE pool_id = $1 AND seq BETWEEN $2 AND $3
"""

_HINT: Final = """
UPDATE pools SET loaded = $3 WHERE id = (
    SELECT id FROM pools WHERE id = $1 AND loaded = $2 FOR UPDATE SKIP LOCKED
) AND loaded = $2 AND EXISTS (SELECT 1 FROM installation WHERE epoch = $4)
"""

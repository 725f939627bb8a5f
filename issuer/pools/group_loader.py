"""Loading many open pools at once that need few codes each, as all do after a recovery.

A few statements and round trips for the whole group, where a load of one pool needs as many for itself. Codes are
pushed by the same script, so the promises are those of `issuer.pools.loader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from issuer.contract.elements import ELEMENT
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import LOAD_CODES
from issuer.pools.loader import BATCH_SIZE
from issuer.pools.pool import Pool
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import ScriptCall
from issuer.storage.stores import Stores

GROUP_SIZE: Final = 100
"""Pools loaded at once."""
_MAX_CODES: Final = 20_000
"""Codes read at once."""

_CODES: Final = f"""
SELECT e.pool_id, c.count, c.codes FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS e(pool_id, first, last)
CROSS JOIN LATERAL (
  SELECT count(*) AS count,
    string_agg(convert_to({ELEMENT.format(table="codes")}, 'UTF8'), '\\x1f'::bytea ORDER BY seq) AS codes
  FROM codes WHERE pool_id = e.pool_id AND seq BETWEEN e.first AND e.last) AS c
WHERE NOT EXISTS (
  SELECT FROM quarantined q
  WHERE q.pool_id = e.pool_id AND q.seq BETWEEN e.first AND e.last AND q.released_at IS NULL)"""

# As the loader of one pool leaves it: not where the row is locked, nor after a recovery.
_HINTS: Final = """
WITH free AS MATERIALIZED (SELECT id FROM pools WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED)
UPDATE pools p SET loaded = e.loaded
FROM free JOIN unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS e(id, before, loaded) ON e.id = free.id
WHERE p.id = e.id AND p.loaded = e.before AND EXISTS (SELECT FROM installation WHERE epoch = $4)"""


@dataclass(slots=True)
class _OpenPool:
    """A pool, up to which seq Redis has it loaded, and the `goal` up to which it is to be loaded."""

    pool: Pool
    loaded: int
    resets: bytes
    goal: int

    @property
    def missing(self) -> int:
        return max(0, self.goal - self.loaded)


class GroupLoader:
    """Loads groups of pools. `pushed`: the codes that were pushed."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.pushed = 0

    async def load(self, pools: Sequence[Pool]) -> list[Pool]:
        """Raise the totals in Redis and push the missing codes. Return the pools that must be loaded alone.

        Those are pools that are not open, coupons, pools that need more codes than one call pushes, and those that
        cannot be loaded: their own load states why. The call may be repeated, killed at any point and run twice at the
        same time. Raises RedisUnavailableError, PostgresUnavailableError; what was pushed stays.
        """
        epoch = self._stores.redis.epoch
        loaded = list[_OpenPool]()
        for group in _by_codes(
            await self._raise_totals([pool for pool in pools if pool.opened and not pool.of_coupon])
        ):
            loaded += await self._push(group)
        async with unavailable_translated():
            await self._stores.postgres.execute(
                _HINTS, [one.pool.id for one in loaded], [one.pool.loaded for one in loaded],
                [one.loaded for one in loaded], epoch,
            )  # fmt: skip
        done = {one.pool.id for one in loaded}
        return [pool for pool in pools if pool.id not in done]

    async def _raise_totals(self, pools: Sequence[Pool]) -> list[_OpenPool]:
        """Raise the totals first, as the loader of one pool does. Return the pools that need few codes, or none."""
        calls = [self._call(pool, 0, b"0", ()) for pool in pools]
        high, found = self._stores.settings.pool_high_water, list[_OpenPool]()
        for pool, reply in zip(pools, await self._stores.redis.run_all(LOAD_CODES, calls), strict=True):
            if reply[0] == b"DONE":
                one = _OpenPool(pool, int(reply[1]), reply[3], min(pool.total, int(reply[2]) + high))
                found += [one] if one.missing <= BATCH_SIZE else []
        return found

    async def _push(self, group: Sequence[_OpenPool]) -> list[_OpenPool]:
        """Push the missing codes of a group. Return the pools that have them, or that another loader loads as well."""
        wanted = {one.pool.id: one for one in group if one.missing}
        ranges = [(pool_id, one.loaded + 1, one.goal) for pool_id, one in wanted.items()]
        async with unavailable_translated():
            rows = await self._stores.postgres.fetch(_CODES, *([column[i] for column in ranges] for i in range(3)))
        found = {row["pool_id"]: row["codes"].split(b"\x1f") for row in rows if row["count"]}
        ready = [(one, codes) for pool_id, one in wanted.items() if len(codes := found.get(pool_id, [])) == one.missing]
        calls = [self._call(one.pool, one.loaded + 1, one.resets, codes) for one, codes in ready]
        loaded = [one for one in group if not one.missing]
        for (one, codes), reply in zip(ready, await self._stores.redis.run_all(LOAD_CODES, calls), strict=True):
            if reply[0] in (b"DONE", b"OUT_OF_STEP"):
                self.pushed += len(codes) if reply[0] == b"DONE" else 0
                one.loaded = int(reply[1])
                loaded.append(one)
        return loaded

    def _call(self, pool: Pool, first: int, resets: bytes, codes: Sequence[bytes]) -> ScriptCall:
        partition = partition_of(pool.batch_id, self._stores.redis.partitions)
        keys = batch_keys(partition, pool.batch_id)
        names = (partition_keys(partition).state, keys.batch, keys.pool(pool.client_id), keys.codes(pool.client_id))
        return names, [first, pool.total, resets, *codes]


def _by_codes(pools: Sequence[_OpenPool]) -> Iterator[list[_OpenPool]]:
    """Split pools into groups that miss about _MAX_CODES codes at most."""
    group, count = list[_OpenPool](), 0
    for one in pools:
        group.append(one)
        count += one.missing
        if count >= _MAX_CODES:
            yield group
            group, count = [], 0
    if group:
        yield group

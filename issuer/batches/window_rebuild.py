"""Rebuild the windows of customers from the redemptions, after a rule change or when Redis lost them.

The caller keeps the batches closed meanwhile. The sources are read in the order in which events travel: the stream,
then the dead letters and the ledger. So no redemption is missed, and each (pool, seq) counts once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from issuer.batches.rules import Rules
from issuer.contract.events import Redemption, UndecodableEventError, decode_event
from issuer.contract.keys import batch_keys, partition_keys
from issuer.contract.scripts import PUT_WINDOWS
from issuer.instants import from_ms
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import NotReadyError, ScriptCall, ScriptRunner, Value, redis_errors_translated

if TYPE_CHECKING:
    import redis.asyncio as aioredis

STAMP_DIGITS: Final = 13
"""Digits of one time in a window."""
_STAMP_END_MS: Final = 10**STAMP_DIGITS

# Postgres sorts millions of ledger rows before it returns the first one.
QUERY_TIMEOUT_S: Final = 900.0
CALL_SIZE: Final = 1_000
"""Keys that one script call writes: Redis serves others between two calls."""
ROUND_TRIP_SIZE: Final = 10_000
"""Keys written in one round trip: Redis syncs them to its disk together."""
_ROUND_TRIP_BYTES: Final = 1_000_000
_STREAM_BATCH_SIZE: Final = 100


class Window(NamedTuple):
    """One customer's redemption times, 13 digits of ms each, oldest first; expires after `keep_ms` (0: never).

    `place`: of its batch among those that are rebuilt.
    """

    place: int
    key: bytes
    times: bytes
    keep_ms: int


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a window that the rules need: the last `max_times` times, none older than `longest_ms` (0: any)."""

    max_times: int
    longest_ms: int

    @classmethod
    def of(cls, rules: Rules) -> Span | None:
        """Return the span of the rules; None if they have no limit, so that no windows are kept."""
        limits = rules.all_limits()
        if not limits:
            return None
        lengths = [limit.window_ms or 0 for limit in limits]
        return cls(max(limit.max for limit in limits), 0 if 0 in lengths else max(lengths))


@dataclass(frozen=True, slots=True)
class ClosedBatch:
    """A batch that is closed while its windows are rebuilt.

    `rebuilding`: as put_batch.lua stored it. `latest_ms`: the clock of the partition; a later redemption, which only a
    wrong clock can state, counts as of then (None: as stated).
    """

    id: UUID
    partition: int
    span: Span
    rebuilding: str
    latest_ms: int | None = None

    @property
    def max_digits(self) -> int:
        """Digits of a window at most."""
        return self.span.max_times * STAMP_DIGITS

    def since_ms(self, host_ms: int) -> int:
        """Return the time up to which redemptions count no longer."""
        return host_ms - self.span.longest_ms if self.span.longest_ms else 0


_SOURCES: Final = """
WITH s AS (SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::int[], $5::bigint[])
  AS s(pool_id, place, since_ms, max_digits, latest_ms))"""

_LEDGER: Final = """
SELECT s.*, ledger.customer_id, ledger.redeemed_at FROM s JOIN ledger ON ledger.pool_id = s.pool_id
WHERE ledger.customer_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM reversals v WHERE v.pool_id = ledger.pool_id AND v.seq = ledger.seq)
  AND ledger.redeemed_at > timestamptz 'epoch' + s.since_ms * interval '1 ms'
  AND ($6::uuid[] IS NULL OR ledger.customer_id = ANY($6))"""

_UNRECORDED: Final = """
UNION ALL
SELECT s.*, u.customer_id, u.redeemed_at
FROM s JOIN (SELECT DISTINCT ON (pool_id, seq) * FROM pg_temp.unrecorded) AS u ON u.pool_id = s.pool_id
WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = u.pool_id AND r.seq = u.seq)
  AND ($6::uuid[] IS NULL OR u.customer_id = ANY($6))"""

# As bytes, which the driver leaves as they are.
_WINDOWS: Final = """{sources}
SELECT place, uuid_send(customer_id) AS customer_id,
  convert_to(right(string_agg(lpad(at_ms::text, 13, '0'), '' ORDER BY at_ms), max_digits), 'UTF8') AS times,
  max(at_ms) AS newest_ms
FROM (SELECT place, max_digits, customer_id, least((date_part('epoch', redeemed_at) * 1000)::bigint, latest_ms) AS at_ms
  FROM ({found}) AS found) AS stamped
GROUP BY place, max_digits, customer_id"""


async def write_windows(
    connection: Connection | PoolConnection,
    redis: ScriptRunner,
    batches: Sequence[ClosedBatch],
    *,
    host_ms: int,
    backlog: AsyncIterable[Sequence[Redemption]] | None = None,
    customers: Sequence[UUID] | None = None,
) -> int:
    """Write the windows of all customers of the batches to Redis, in chunks. Return the number of windows.

    `host_ms`: the time of Redis' host, read while the batches were closed. `backlog`: redemptions that may not be in
    the ledger yet (None: none), read here before the ledger. `customers`: only these (None: all). Memory does not grow
    with the number of customers or redemptions.

    Raises NotReadyError once a batch is no longer closed for this rebuild.
    """
    written = 0
    async with connection.transaction():
        # The batches stay closed while their redemptions are sorted by customer: memory makes that faster.
        await connection.execute("SET LOCAL work_mem = '64MB'")
        pools = await _place_pools(connection, batches)
        if not pools:
            return 0
        since_ms = [batch.since_ms(host_ms) for batch in batches]
        since = {pool_id: since_ms[place] for pool_id, place in pools.items()}
        has_unrecorded = await _gather_unrecorded(connection, since, backlog)
        query = _WINDOWS.format(sources=_SOURCES, found=_LEDGER + (_UNRECORDED if has_unrecorded else ""))
        of_pools = [batches[place] for place in pools.values()]
        max_digits, latest_ms = [batch.max_digits for batch in of_pools], [batch.latest_ms for batch in of_pools]
        size = max(10, min(ROUND_TRIP_SIZE, _ROUND_TRIP_BYTES // max(max_digits)))
        cursor = await connection.cursor(
            query, list(pools), list(pools.values()), list(since.values()), max_digits, latest_ms, customers,
            timeout=QUERY_TIMEOUT_S,
        )  # fmt: skip
        prefixes = [batch_keys(batch.partition, batch.id).window_prefix for batch in batches]
        while rows := await cursor.fetch(size, timeout=QUERY_TIMEOUT_S):
            windows = _windows(rows, batches, prefixes, host_ms)
            await _put_windows(redis, batches, windows)
            written += len(windows)
    return written


async def _place_pools(connection: Connection | PoolConnection, batches: Sequence[ClosedBatch]) -> Mapping[int, int]:
    """Return the pools of batches, each with the place of its batch."""
    places = {batch.id: place for place, batch in enumerate(batches)}
    return {pool_id: places[of] for pool_id, of in (await find_pools(connection, list(places))).items()}


def _windows(
    rows: Sequence[asyncpg.Record], batches: Sequence[ClosedBatch], prefixes: Sequence[bytes], host_ms: int
) -> list[Window]:
    """Return the windows that have not expired yet."""
    lengths_ms = [batch.span.longest_ms for batch in batches]
    windows = list[Window]()
    for place, customer_id, times, newest_ms in rows:
        keep_ms = newest_ms + lengths_ms[place] - host_ms if lengths_ms[place] else 0
        if keep_ms > 0 or not lengths_ms[place]:
            windows.append(Window(place, prefixes[place] + customer_id, times, keep_ms))
    return windows


async def _put_windows(redis: ScriptRunner, batches: Sequence[ClosedBatch], windows: Sequence[Window]) -> None:
    of_batches = defaultdict[int, list[Window]](list)
    for window in windows:
        of_batches[window.place].append(window)
    calls = [
        (batches[place], some[at : at + CALL_SIZE])
        for place, some in of_batches.items()
        for at in range(0, len(some), CALL_SIZE)
    ]
    replies = await redis.run_all(PUT_WINDOWS, [_call(batch, some) for batch, some in calls])
    for (batch, _), reply in zip(calls, replies, strict=True):
        if reply[0] != b"DONE":
            raise NotReadyError(f"batch {batch.id} is no longer closed for this rebuild of its windows: {reply!r}")


def _call(batch: ClosedBatch, windows: Sequence[Window]) -> ScriptCall:
    state, key = partition_keys(batch.partition).state, batch_keys(batch.partition, batch.id).batch
    args: list[Value] = [batch.rebuilding]
    for window in windows:
        args += [window.times, window.keep_ms]
    return (state, key, *(window.key for window in windows)), args


async def find_pools(connection: Connection | PoolConnection, batch_ids: Sequence[UUID]) -> Mapping[int, UUID]:
    """Return the ids of the batches' pools, each with its batch."""
    rows = await connection.fetch("SELECT id, batch_id FROM pools WHERE batch_id = ANY($1) ORDER BY id", batch_ids)
    return {row["id"]: row["batch_id"] for row in rows}


_CREATE_UNRECORDED: Final = """
CREATE TEMP TABLE IF NOT EXISTS unrecorded
  (pool_id bigint, seq bigint, customer_id uuid, redeemed_at timestamptz) ON COMMIT DROP"""


async def _gather_unrecorded(
    connection: Connection | PoolConnection,
    since_ms: Mapping[int, int],
    backlog: AsyncIterable[Sequence[Redemption]] | None,
) -> bool:
    """Copy redemptions that may not be in the ledger into a temporary table. Return False if there are none.

    `since_ms`: the pools, each with the time up to which its redemptions count no longer.
    """
    created = False

    async def put(redemptions: Iterable[Redemption]) -> None:
        nonlocal created
        records = [
            (r.pool_id, r.seq, r.customer_id, from_ms(r.redeemed_at_ms))
            for r in redemptions
            if r.customer_id is not None and since_ms.get(r.pool_id, _STAMP_END_MS) < r.redeemed_at_ms < _STAMP_END_MS
        ]
        if records and not created:
            # The table exists already if the caller's transaction rebuilt another batch before.
            await connection.execute(_CREATE_UNRECORDED)
            await connection.execute("TRUNCATE pg_temp.unrecorded")
            created = True
        if records:
            await connection.copy_records_to_table("unrecorded", records=records, schema_name="pg_temp")

    if backlog is not None:
        async for page in backlog:
            await put(page)
    await put(await find_dead_letters(connection, list(since_ms)))
    return created


_DEAD_LETTERS: Final = """
SELECT pool_id, seq, raw FROM dead_letters WHERE pool_id = ANY($1) AND seq IS NOT NULL AND resolved_at IS NULL"""


async def find_dead_letters(connection: Connection | PoolConnection, pool_ids: Sequence[int]) -> list[Redemption]:
    """Return the redemptions of these pools that are dead letters but readable. They were answered, so they count."""
    rows = await connection.fetch(_DEAD_LETTERS, pool_ids)
    redemptions: list[Redemption] = []
    for row in rows:
        try:
            event = decode_event(dict(zip(row["raw"][::2], row["raw"][1::2], strict=True)))
        except (UndecodableEventError, ValueError):
            continue
        redemptions += [r for r in event.redemptions if (r.pool_id, r.seq) == (row["pool_id"], row["seq"])]
    return redemptions


async def read_backlog(
    client: aioredis.Redis, partition: int, *, strict: bool = False
) -> AsyncGenerator[list[Redemption], None]:
    """Yield the redemptions that are in a partition's stream now, page by page. Raises RedisUnavailableError.

    Undecodable entries are skipped (the worker moves them to the dead letters); with `strict` they raise
    UndecodableEventError.
    """
    stream = partition_keys(partition).stream
    async with redis_errors_translated():
        newest: Any = await client.xrevrange(stream, count=1)
    after = "-"
    while newest:
        async with redis_errors_translated():
            entries: Any = await client.xrange(stream, min=after, max=newest[0][0], count=_STREAM_BATCH_SIZE)
        if not entries:
            return
        after = "(" + entries[-1][0].decode()
        page: list[Redemption] = []
        for _, fields in entries:
            try:
                page += decode_event(fields).redemptions
            except UndecodableEventError:
                if strict:
                    raise
        yield page

"""Rebuild the windows of customers from the redemptions, after a rule change or when Redis lost them.

The caller keeps the batch closed meanwhile. The sources are read in the order in which events travel: the stream, then
the dead letters and the ledger. So no redemption is missed, and each (pool, seq) counts once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg

from issuer.batches.rules import Rules
from issuer.contract.events import Redemption, UndecodableEventError, decode_event
from issuer.contract.keys import batch_keys, partition_keys
from issuer.contract.scripts import PUT_WINDOWS
from issuer.instants import from_ms
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import NotReadyError, ScriptRunner, redis_errors_translated

if TYPE_CHECKING:
    import redis.asyncio as aioredis

STAMP_DIGITS: Final = 13
"""Digits of one time in a window."""
_STAMP_END_MS: Final = 10**STAMP_DIGITS

# Postgres sorts millions of ledger rows before it returns the first one.
QUERY_TIMEOUT_S: Final = 900.0
_BATCH_SIZE: Final = 1_000
_BATCH_BYTES: Final = 1_000_000
_STREAM_BATCH_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class Window:
    """One customer's redemption times, 13 digits of ms each, oldest first; expires after `keep_ms` (0: never)."""

    key: bytes
    times: bytes
    keep_ms: int


WindowWriter = Callable[[Sequence[Window]], Awaitable[None]]


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


_LEDGER: Final = """
SELECT customer_id, redeemed_at FROM ledger
WHERE pool_id = ANY($1) AND customer_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM reversals v WHERE v.pool_id = ledger.pool_id AND v.seq = ledger.seq)
  AND redeemed_at > timestamptz 'epoch' + $2::bigint * interval '1 ms'
  AND ($4::uuid[] IS NULL OR customer_id = ANY($4))"""

_UNRECORDED: Final = """
UNION ALL
SELECT DISTINCT ON (pool_id, seq) customer_id, redeemed_at FROM pg_temp.unrecorded u
WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = u.pool_id AND r.seq = u.seq)
  AND ($4::uuid[] IS NULL OR customer_id = ANY($4))"""

_WINDOWS: Final = """
SELECT customer_id, right(string_agg(lpad(at_ms::text, 13, '0'), '' ORDER BY at_ms), $3) AS times,
  max(at_ms) AS newest_ms
FROM (SELECT customer_id, least((date_part('epoch', redeemed_at) * 1000)::bigint, $5) AS at_ms
  FROM ({source}) AS found) AS stamped
GROUP BY customer_id"""


async def write_windows(
    connection: Connection | PoolConnection,
    batch_id: UUID,
    partition: int,
    span: Span | None,
    write: WindowWriter,
    *,
    host_ms: int,
    backlog: AsyncIterable[Sequence[Redemption]] | None = None,
    customers: Sequence[UUID] | None = None,
    latest_ms: int | None = None,
) -> int:
    """Pass the windows of all customers of the batch to `write`, in chunks. Return the number of windows.

    `host_ms`: the time of Redis' host, read while the batch was closed. `backlog`: redemptions that may not be in the
    ledger yet (None: none), read here before the ledger. `customers`: only these (None: all). `latest_ms`: the clock of
    the partition; a later redemption, which only a wrong clock can state, counts as of then. Memory does not grow with
    the number of customers or redemptions.
    """
    if span is None:
        return 0
    since_ms = host_ms - span.longest_ms if span.longest_ms else 0
    prefix = batch_keys(partition, batch_id).window_prefix
    written = 0
    async with connection.transaction():
        # The batch stays closed while all its redemptions are sorted by customer: memory makes that faster.
        await connection.execute("SET LOCAL work_mem = '64MB'")
        pool_ids = await find_pool_ids(connection, batch_id)
        has_unrecorded = await _gather_unrecorded(connection, pool_ids, backlog, since_ms)
        query = _WINDOWS.format(source=_LEDGER + (_UNRECORDED if has_unrecorded else ""))
        max_digits = span.max_times * STAMP_DIGITS
        prefetch = max(10, min(_BATCH_SIZE, 4 * _BATCH_BYTES // max_digits))
        cursor = connection.cursor(
            query, pool_ids, since_ms, max_digits, customers, latest_ms, prefetch=prefetch, timeout=QUERY_TIMEOUT_S
        )
        async with aclosing(_group_windows(cursor, prefix, span, host_ms)) as groups:
            async for windows in groups:
                await write(windows)
                written += len(windows)
    return written


async def _group_windows(
    rows: AsyncIterable[asyncpg.Record], prefix: bytes, span: Span, host_ms: int
) -> AsyncGenerator[list[Window], None]:
    """Yield the windows that have not expired yet, about _BATCH_BYTES and at most _BATCH_SIZE of them at a time."""
    windows, size = list[Window](), 0
    async for row in rows:
        keep_ms = row["newest_ms"] + span.longest_ms - host_ms if span.longest_ms else 0
        if span.longest_ms and keep_ms <= 0:
            continue
        window = Window(prefix + row["customer_id"].bytes, row["times"].encode(), keep_ms)
        windows.append(window)
        size += len(window.times)
        if len(windows) >= _BATCH_SIZE or size >= _BATCH_BYTES:
            yield windows
            windows, size = [], 0
    if windows:
        yield windows


async def find_pool_ids(connection: Connection | PoolConnection, batch_id: UUID) -> list[int]:
    """Return the ids of a batch's pools."""
    return [row["id"] for row in await connection.fetch("SELECT id FROM pools WHERE batch_id = $1", batch_id)]


_CREATE_UNRECORDED: Final = """
CREATE TEMP TABLE IF NOT EXISTS unrecorded
  (pool_id bigint, seq bigint, customer_id uuid, redeemed_at timestamptz) ON COMMIT DROP"""


async def _gather_unrecorded(
    connection: Connection | PoolConnection,
    pool_ids: Sequence[int],
    backlog: AsyncIterable[Sequence[Redemption]] | None,
    since_ms: int,
) -> bool:
    """Copy redemptions that may not be in the ledger into a temporary table. Return False if there are none."""
    of_batch, created = frozenset(pool_ids), False

    async def put(redemptions: Iterable[Redemption]) -> None:
        nonlocal created
        records = [
            (r.pool_id, r.seq, r.customer_id, from_ms(r.redeemed_at_ms))
            for r in redemptions
            if r.pool_id in of_batch and r.customer_id is not None and since_ms < r.redeemed_at_ms < _STAMP_END_MS
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
    await put(await find_dead_letters(connection, pool_ids))
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


def fenced_writer(redis: ScriptRunner, batch_id: UUID, partition: int, rebuilding: str) -> WindowWriter:
    """Return a writer for the windows of a batch that is closed for this rebuild.

    The writer raises NotReadyError once the batch is no longer closed for it.
    """
    state, batch = partition_keys(partition).state, batch_keys(partition, batch_id).batch

    async def write(windows: Sequence[Window]) -> None:
        keys: list[str | bytes] = [state, batch, *(window.key for window in windows)]
        args: list[str | bytes | int] = [rebuilding]
        for window in windows:
            args += [window.times, window.keep_ms]
        reply = await redis.run(PUT_WINDOWS, keys, args)
        if reply[0] != b"DONE":
            raise NotReadyError(f"batch {batch_id} is no longer closed for this rebuild of its windows: {reply!r}")

    return write

"""Limit windows, rebuilt from what was really redeemed: for changed rules, and for a Redis that lost them.

Whoever rebuilds must keep the batch closed meanwhile. Sources are read in the order in which redemptions travel: the
stream, then dead letters and ledger. So none is missed, and each (pool, seq) counts once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from issuer.batches.rules import Rules
from issuer.contract.events import Redemption, UndecodableEventError, decode_event
from issuer.contract.keys import batch_keys, partition_keys
from issuer.contract.scripts import PUT_WINDOWS
from issuer.instants import from_ms
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import NotReadyError, ScriptRunner, redis_errors_translated

if TYPE_CHECKING:
    import redis.asyncio as aioredis

STAMP: Final = 13
"""Digits of one time in a window."""

# A ledger of millions is sorted before the first row comes.
QUERY_TIMEOUT_S: Final = 900.0
_BATCH_SIZE: Final = 1_000
_CHUNK_BYTES: Final = 1_000_000
_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Window:
    """One customer's redemption times, 13 digits of ms each, oldest first; kept for `keep_ms` (0: for ever)."""

    key: bytes
    times: bytes
    keep_ms: int


WindowWriter = Callable[[Sequence[Window]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Span:
    """What the rules need of a window: the last `most` times, none older than `longest_ms` (0: all)."""

    most: int
    longest_ms: int

    @classmethod
    def of(cls, rules: Rules) -> Span | None:
        """None: there are no limits, so no windows."""
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
FROM (SELECT customer_id, (date_part('epoch', redeemed_at) * 1000)::bigint AS at_ms FROM ({source}) AS found) AS stamped
GROUP BY customer_id"""


async def write_windows(
    connection: Connection | PoolConnection,
    batch_id: UUID,
    partition: int,
    rules: Rules,
    write: WindowWriter,
    *,
    host_ms: int,
    backlog: AsyncIterable[Sequence[Redemption]] | None = None,
    customers: Sequence[UUID] | None = None,
) -> int:
    """Gives `write` the windows of every customer of the batch, in chunks; returns how many there were.

    `host_ms`: Redis' own time, read while the batch was closed. `backlog`: what may not be in the ledger yet (None:
    nothing), read here before the ledger. `customers`: those alone (None: all). Memory does not grow with the number
    of customers or redemptions.
    """
    span = Span.of(rules)
    if span is None:
        return 0
    since_ms = host_ms - span.longest_ms if span.longest_ms else 0
    prefix = batch_keys(partition, batch_id).window_prefix
    written, chunk, size = 0, list[Window](), 0
    async with connection.transaction():
        # All redemptions of the batch are sorted by customer while nobody can redeem: let that be quick.
        await connection.execute("SET LOCAL work_mem = '64MB'")
        pool_ids = await pools_of(connection, batch_id)
        beside = await _gather_unrecorded(connection, pool_ids, backlog, since_ms)
        query = _WINDOWS.format(source=_LEDGER + (_UNRECORDED if beside else ""))
        longest = span.most * STAMP
        prefetch = max(10, min(_BATCH_SIZE, 4 * _CHUNK_BYTES // longest))
        cursor = connection.cursor(
            query, pool_ids, since_ms, longest, customers, prefetch=prefetch, timeout=QUERY_TIMEOUT_S
        )
        async for row in cursor:
            keep_ms = row["newest_ms"] + span.longest_ms - host_ms if span.longest_ms else 0
            if span.longest_ms and keep_ms <= 0:
                continue
            window = Window(prefix + row["customer_id"].bytes, row["times"].encode(), keep_ms)
            chunk.append(window)
            size += len(window.times)
            if len(chunk) >= _BATCH_SIZE or size >= _CHUNK_BYTES:
                await write(chunk)
                written, chunk, size = written + len(chunk), [], 0
        if chunk:
            await write(chunk)
    return written + len(chunk)


async def pools_of(connection: Connection | PoolConnection, batch_id: UUID) -> list[int]:
    """The ids of a batch's pools."""
    return [row["id"] for row in await connection.fetch("SELECT id FROM pools WHERE batch_id = $1", batch_id)]


async def _gather_unrecorded(
    connection: Connection | PoolConnection,
    pool_ids: Sequence[int],
    backlog: AsyncIterable[Sequence[Redemption]] | None,
    since_ms: int,
) -> bool:
    """Puts what may not be in the ledger beside it, into a temporary table; False: there is nothing."""
    mine, there = frozenset(pool_ids), False

    async def put(redemptions: Iterable[Redemption]) -> None:
        nonlocal there
        records = [
            (r.pool_id, r.seq, r.customer_id, from_ms(r.redeemed_at_ms))
            for r in redemptions
            if r.pool_id in mine and r.customer_id is not None and r.redeemed_at_ms > since_ms
        ]
        if records and not there:
            # The name may be taken by an earlier batch where the caller's own transaction spans several.
            await connection.execute(
                "CREATE TEMP TABLE IF NOT EXISTS unrecorded"
                " (pool_id bigint, seq bigint, customer_id uuid, redeemed_at timestamptz) ON COMMIT DROP"
            )
            await connection.execute("TRUNCATE pg_temp.unrecorded")
            there = True
        if records:
            await connection.copy_records_to_table("unrecorded", records=records, schema_name="pg_temp")

    if backlog is not None:
        async for some in backlog:
            await put(some)
    await put(await dead_letters_of(connection, pool_ids))
    return there


async def dead_letters_of(connection: Connection | PoolConnection, pool_ids: Sequence[int]) -> list[Redemption]:
    """Redemptions of these pools that could be read but not recorded. They were answered, so they count."""
    rows = await connection.fetch(
        "SELECT pool_id, seq, raw FROM dead_letters"
        " WHERE pool_id = ANY($1) AND seq IS NOT NULL AND resolved_at IS NULL",
        pool_ids,
    )
    found = []
    for row in rows:
        try:
            event = decode_event(dict(zip(row["raw"][::2], row["raw"][1::2], strict=True)))
        except (UndecodableEventError, ValueError):
            continue
        found += [r for r in event.redemptions if (r.pool_id, r.seq) == (row["pool_id"], row["seq"])]
    return found


async def read_backlog(
    client: aioredis.Redis, partition: int, *, strict: bool = False
) -> AsyncGenerator[list[Redemption], None]:
    """Everything that lies in a partition's stream at this moment, page by page. Raises RedisUnavailableError.

    Entries that cannot be decoded are passed over (the worker puts them into the dead letters); with `strict` they
    raise UndecodableEventError.
    """
    stream = partition_keys(partition).stream
    async with redis_errors_translated():
        newest: Any = await client.xrevrange(stream, count=1)
    after = "-"
    while newest:
        async with redis_errors_translated():
            entries: Any = await client.xrange(stream, min=after, max=newest[0][0], count=_PAGE)
        if not entries:
            return
        after = "(" + entries[-1][0].decode()
        found: list[Redemption] = []
        for _, fields in entries:
            try:
                found += decode_event(fields).redemptions
            except UndecodableEventError:
                if strict:
                    raise
        yield found


def fenced_writer(redis: ScriptRunner, batch_id: UUID, partition: int, rebuilding: str) -> WindowWriter:
    """Writes windows of a batch that is closed for just this rebuild. Raises NotReadyError when it is not any more."""
    state, batch = partition_keys(partition).state, batch_keys(partition, batch_id).batch

    async def write(windows: Sequence[Window]) -> None:
        keys: list[str | bytes] = [state, batch, *(window.key for window in windows)]
        args: list[str | bytes | int] = [rebuilding]
        for window in windows:
            args += [window.times, window.keep_ms]
        reply = await redis.run(PUT_WINDOWS, keys, args)
        if reply[0] != b"DONE":
            raise NotReadyError(f"the rebuild of batch {batch_id} was overtaken: {reply!r}")

    return write

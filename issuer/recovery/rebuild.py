"""The steps of a recovery that change Redis or Postgres, in their order.

Each can be repeated. The caller holds the recovery lock. If it has lost the lock meanwhile, the partitions carry the
fence of another recovery and every script here refuses.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from issuer.batches.batch_revision import FOR_REDIS, BatchRevision
from issuer.batches.reversals import find_pending_reversals, mark_returned, return_uses
from issuer.batches.window_rebuild import ClosedBatch, write_windows
from issuer.contract.keys import GROUP, KEY_FORMAT, batch_keys, partition_keys
from issuer.contract.scripts import ACK_EVENTS, BLESS_PARTITION, PUT_BATCH, REBUILD_POOL, SET_CLOCK, Script
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.recovery.answers import restore_answers
from issuer.recovery.decision import RecoveryDecision
from issuer.recovery.inspection import BATCH_SIZE, PoolState, inspect_partitions
from issuer.recovery.lock import HeldLink
from issuer.settings import Settings
from issuer.storage.floors import Floors
from issuer.storage.lineage import IncidentError
from issuer.storage.postgres import Connection, own_connection
from issuer.storage.redis_link import CommandSender, RedisRefusedError, ScriptCall, Value, accepted, time_ms
from issuer.storage.server_watch import MAX_APART_MS, ClockReading

log = structlog.get_logger()

TIMEOUT_S: Final = 60.0
ENTRY_BATCH_SIZE: Final = 200


@dataclass(frozen=True, slots=True)
class PartitionMark:
    """What is written to the state of every partition.

    The fence before an epoch is its negative: no process is ever blessed with it, and a recovery that has lost its lock
    meets the fence of another epoch. `token`: of the commit that fenced.
    """

    installation: UUID
    epoch: int
    partitions: int
    max_backlog: int
    token: UUID

    @property
    def fence(self) -> int:
        return -self.epoch


class FencedScripts:
    """A runner of scripts on fenced partitions, as only the recovery may. Takes the place of `redis_link.Redis`."""

    def __init__(self, link: CommandSender, mark: PartitionMark) -> None:
        self._link = link
        self._partitions = mark.partitions
        self._fence = mark.fence

    @property
    def partitions(self) -> int:
        return self._partitions

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> list[Any]:
        """Run a script like `Redis.run`, with the fence as its epoch."""
        return (await self.run_all(script, [(keys, args)]))[0]

    async def run_all(self, script: Script, calls: Sequence[ScriptCall]) -> list[list[Any]]:
        """Run a script many times like `Redis.run_all`, with the fence as its epoch."""
        return await run_all(self._link, script, [(keys, [self._fence, *args]) for keys, args in calls])


async def run_all(link: CommandSender, script: Script, calls: Sequence[ScriptCall]) -> list[list[Any]]:
    """Run one script many times in one round trip, epochs included. Raises RedisRefusedError if any call is refused.

    A script refuses when another process recovers the same server, since this one has lost the recovery lock.
    """
    commands: list[Sequence[Value]] = [("SCRIPT", "LOAD", script.text)]
    commands += [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
    replies = await link.call(commands, timeout_s=TIMEOUT_S)
    for reply in replies:
        if isinstance(reply, Exception):
            raise RedisRefusedError(f"{script.name}: {reply}") from reply
    for reply in replies[1:]:
        if reply[0] in (b"STALE_EPOCH", b"NOT_FENCED"):
            raise RedisRefusedError(f"{script.name}: the partition carries epoch {reply[1].decode()}")
        if reply[0] == b"FOREIGN":
            raise RedisRefusedError(f"{script.name}: the partition belongs to installation {reply[1].decode()}")
    return replies[1:]


async def _mark_partitions(
    link: CommandSender, mark: PartitionMark, epoch: int, floors: Floors, backlogs: Sequence[int]
) -> None:
    await run_all(
        link, BLESS_PARTITION,
        [
            (
                (keys.state, keys.stream),
                (epoch, KEY_FORMAT, mark.max_backlog, backlogs[p], GROUP, str(mark.installation),
                 floors.serials[p], floors.beats[p], mark.token.hex),
            )
            for p, keys in enumerate(map(partition_keys, range(mark.partitions)))
        ],
    )  # fmt: skip


async def fence_partitions(link: CommandSender, mark: PartitionMark) -> None:
    """Fence all partitions: from here on the server refuses to issue and to acknowledge, on every connection.

    Stopped half-way, some partitions still have the epoch before, which Postgres does not bless any more.
    """
    # A fence leaves the backlogs as they are: `find_cut_streams` compares them with the streams.
    await _mark_partitions(link, mark, mark.fence, Floors(mark.epoch, mark.partitions), [0] * mark.partitions)


async def store_decision(postgres: Connection, decision: RecoveryDecision) -> None:
    """Store what a running recovery has found out since the fence."""
    await postgres.execute(_STORE_DECISION, decision.to_json())


async def bless_partitions(link: CommandSender, mark: PartitionMark, floors: Floors) -> None:
    """Open all partitions under the new epoch, with serials and beats not below `floors`.

    Stopped half-way, none is trusted: Postgres has not blessed it yet.
    """
    # From the streams themselves: they were drained since the fence, or the counters are theirs.
    await _mark_partitions(link, mark, mark.epoch, floors, await _count_backlogs(link, mark.partitions))


async def _count_backlogs(link: CommandSender, partitions: int) -> list[int]:
    """Return the redemptions in each partition's stream."""
    counts = []
    for partition in range(partitions):
        count = 0
        async for entries in read_stream(link, partition):
            count += sum(entry.announced for entry in entries)
        counts.append(count)
    return counts


async def find_cut_streams(link: CommandSender, mark: PartitionMark) -> list[int]:
    """Return the fenced partitions whose streams lack redemptions that their backlog counts."""
    states = await inspect_partitions(link, mark.partitions)
    counted = await _count_backlogs(link, mark.partitions)
    return [p for p, state in enumerate(states) if counted[p] < int(state["backlog"])]


async def read_stream(link: CommandSender, partition: int) -> AsyncIterator[list[StreamEntry]]:
    """Yield all entries of a partition's stream, ENTRY_BATCH_SIZE at a time."""
    after = b"-"
    while True:
        command = ("XRANGE", partition_keys(partition).stream, after, "+", "COUNT", ENTRY_BATCH_SIZE)
        (reply,) = accepted(await link.call([command], timeout_s=TIMEOUT_S))
        if not reply:
            return
        yield [StreamEntry.of_reply(partition, stream_id, fields) for stream_id, fields in reply]
        after = b"(" + reply[-1][0]


async def drain_streams(link: CommandSender, postgres: Connection, mark: PartitionMark) -> int:
    """Record what survives in the streams, in the ledger or as dead letters. Return the number of redemptions."""
    drained = 0
    for partition in range(mark.partitions):
        keys = partition_keys(partition)
        async for entries in read_stream(link, partition):
            if any(entry.is_newer for entry in entries):
                raise IncidentError("the streams have events of a later version: run that version, which recovers")
            async with postgres.transaction():
                await record_entries(postgres, entries)
            acks: list[Value] = [mark.fence, GROUP, mark.token.hex]
            for entry in entries:
                acks += [entry.stream_id, entry.announced]
                drained += entry.announced
            # Recorded first, acknowledged second. Stopped in between, the entry is read again and found in the ledger.
            await run_all(link, ACK_EVENTS, [((keys.state, keys.stream), acks)])
    return drained


_STORE_DECISION: Final = "UPDATE installation SET recovering = $1"
_CLOCK_MS: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8"


async def _read_host_ms(link: CommandSender, postgres: Connection) -> int:
    """Return the time of Redis' host. Raises RedisRefusedError if it cannot be right: windows are kept by it."""
    began_s = time.monotonic()
    (now,) = await link.call([("TIME",)], timeout_s=TIMEOUT_S)
    redis, began_s = ClockReading.of(time_ms(now), began_s, time.monotonic()), time.monotonic()
    other = ClockReading.of(await postgres.fetchval(_CLOCK_MS), began_s, time.monotonic())
    if abs(redis.ahead_ms(other)) > MAX_APART_MS:
        raise RedisRefusedError("the clocks of Redis and Postgres are more than 5 s apart")
    return time_ms(now)


async def set_clocks(link: CommandSender, postgres: Connection, mark: PartitionMark) -> None:
    """Set the clocks of fenced partitions that are ahead of Redis' clock to that one."""
    host_ms = await _read_host_ms(link, postgres)
    states = [partition_keys(partition).state for partition in range(mark.partitions)]
    await run_all(link, SET_CLOCK, [((state,), (mark.fence, host_ms)) for state in states])


_BATCHES: Final = f"{FOR_REDIS} WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT {BATCH_SIZE}"

# In the order of the ids, in which others lock several of them, too.
_SET_REDIS_REVISIONS: Final = """
UPDATE batches b SET redis_revision = e.revision FROM unnest($1::uuid[], $2::bigint[]) AS e(id, revision)
WHERE b.id = e.id AND b.id IN (SELECT id FROM batches WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)"""
# As if its rules had changed: the push that succeeds one day writes the windows, which the lost Redis had.
_LEAVE_TO_WORKER: Final = """
UPDATE batches SET redis_revision = 0, revision = revision + 1, rules_revision = revision + 1 WHERE id = ANY($1)"""
_SET_LOADED: Final = """
UPDATE pools p SET loaded = e.loaded FROM unnest($1::bigint[], $2::bigint[]) AS e(id, loaded)
WHERE p.id = e.id AND p.id IN (SELECT id FROM pools WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)"""


async def rebuild_partitions(
    settings: Settings, link: HeldLink, postgres: Connection, mark: PartitionMark, pools: Sequence[PoolState]
) -> None:
    """Rebuild batches, pools, windows and kept answers from Postgres. Codes are loaded after the blessing.

    Each step takes BATCH_SIZE batches or pools at once. Stopped half-way, the partitions stay fenced and the next
    recovery rebuilds all of it.
    """
    redis, host_ms = FencedScripts(link, mark), await _read_host_ms(link, postgres)
    states = await inspect_partitions(link, mark.partitions)
    latest_ms = [max(host_ms, int(state["clock"])) for state in states]
    last: UUID | None = None
    async with own_connection(settings) as reader, own_connection(settings) as other:
        while rows := await postgres.fetch(_BATCHES, last):
            limited = await _put_batches(redis, postgres, rows, latest_ms)
            # An ended batch grants nothing, so it needs no windows; replays it still answers.
            answering = [row["id"] for row in rows if row["freed_at"] is None]
            await link.at_once(
                restore_answers(reader, redis, answering, host_ms=host_ms),
                write_windows(other, redis, limited, host_ms=host_ms),
            )
            last = rows[-1]["id"]
    # After the batches: a use that is reversed from here on raises a revision, and the worker pushes that after the
    # blessing. The other way round a reversal in between would reach Redis by neither way.
    # And after the windows: a reversal takes its use out of them.
    reversed_uses = await find_pending_reversals(postgres)
    await return_uses(redis, reversed_uses)
    await mark_returned(postgres, reversed_uses)
    # Pools last: only what is quarantined and recorded by now counts as issued.
    await _rebuild_pools(link, postgres, mark, pools)


async def _put_batches(
    redis: FencedScripts, postgres: Connection, rows: Sequence[asyncpg.Record], latest_ms: Sequence[int]
) -> list[ClosedBatch]:
    """Write the revisions of some batches (rows of FOR_REDIS). Return those that have windows."""
    revisions, unreadable, limited = list[BatchRevision](), list[UUID](), list[ClosedBatch]()
    for row in rows:
        try:
            revision = BatchRevision.of_row(row, redis.partitions)
        except Exception:
            # It must not keep all others closed. Redis does not know it until the worker has pushed it.
            log.exception("a batch cannot be read and is not rebuilt; repair its row", batch_id=str(row["id"]))
            unreadable.append(row["id"])
            continue
        revisions.append(revision)
        if revision.span and row["freed_at"] is None and row["ended_at"] is None:
            latest = latest_ms[revision.partition]
            limited.append(ClosedBatch(revision.batch_id, revision.partition, revision.span, revision.closed, latest))
    if unreadable:
        await postgres.execute(_LEAVE_TO_WORKER, unreadable)
    # What they replace is given up, whatever it is.
    await redis.run_all(PUT_BATCH, [revision.call() for revision in revisions])
    ids, numbers = [revision.batch_id for revision in revisions], [revision.number for revision in revisions]
    await postgres.execute(_SET_REDIS_REVISIONS, ids, numbers)
    return limited


async def _rebuild_pools(
    link: CommandSender, postgres: Connection, mark: PartitionMark, pools: Sequence[PoolState]
) -> None:
    for at in range(0, len(pools), BATCH_SIZE):
        calls, removals, hints = list[ScriptCall](), list[Sequence[Value]](), dict[int, int]()
        for pool in pools[at : at + BATCH_SIZE]:
            keys = batch_keys(pool.partition, pool.batch_id)
            names = (keys.pool(pool.client_id), keys.codes(pool.client_id))
            if pool.opened:
                args = (mark.fence, pool.pool_id, pool.issued_after, pool.total)
                calls.append(((partition_keys(pool.partition).state, *names), args))
                if not pool.of_coupon:
                    hints[pool.pool_id] = pool.issued_after
            elif pool.issued_before is not None:
                # An import has taken them back: what is in Redis has the order before it.
                removals.append(("UNLINK", *names))
        if removals:
            accepted(await link.call(removals, timeout_s=TIMEOUT_S))
        await run_all(link, REBUILD_POOL, calls)
        # The lists are empty now; by this hint the worker finds them and tops them up.
        await postgres.execute(_SET_LOADED, list(hints), list(hints.values()))

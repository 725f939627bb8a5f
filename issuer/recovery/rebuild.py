"""The steps of a recovery that change Redis or Postgres, in their order.

Each can be repeated. The caller holds the recovery lock. If it has lost the lock meanwhile, the partitions carry the
fence of another recovery and every script here refuses.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import structlog

from issuer.batches.batch_revision import FOR_REDIS, BatchRevision
from issuer.batches.reversals import find_pending_reversals, mark_returned, return_uses
from issuer.batches.windows import fenced_writer, write_windows
from issuer.contract.keys import GROUP, KEY_FORMAT, batch_keys, partition_keys, partition_of
from issuer.contract.scripts import ACK_EVENTS, BLESS_PARTITION, REBUILD_POOL, SET_CLOCK, Script
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.recovery.answers import restore_answers
from issuer.recovery.decision import RecoveryDecision
from issuer.recovery.inspection import BATCH_SIZE, PoolState, inspect_partitions
from issuer.storage.floors import Floors
from issuer.storage.lineage import IncidentError, Lineage
from issuer.storage.postgres import Connection
from issuer.storage.redis_link import CommandSender, RedisRefusedError, Value, accepted, time_ms
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
        return (await run_all(self._link, script, [(keys, [self._fence, *args])]))[0]


async def run_all(
    link: CommandSender, script: Script, calls: Sequence[tuple[Sequence[str | bytes], Sequence[Value]]]
) -> list[list[Any]]:
    """Run one script many times in one round trip. Raises RedisRefusedError if any of the calls is refused.

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


async def _mark_partitions(link: CommandSender, mark: PartitionMark, epoch: int, floors: Floors) -> None:
    # From the stream itself: the stored counter need not match a stream that was drained or cut.
    backlogs = await _count_backlogs(link, mark.partitions)
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
    await _mark_partitions(link, mark, mark.fence, Floors(mark.epoch, mark.partitions))


async def store_decision(postgres: Connection, decision: RecoveryDecision) -> None:
    """Store what a running recovery has found out since the fence."""
    await postgres.execute(_STORE_DECISION, decision.to_json())


async def bless_partitions(link: CommandSender, mark: PartitionMark, floors: Floors) -> None:
    """Open all partitions under the new epoch, with serials and beats not below `floors`.

    Stopped half-way, none is trusted: Postgres has not blessed it yet.
    """
    await _mark_partitions(link, mark, mark.epoch, floors)


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


_SET_REDIS_REVISION: Final = "UPDATE batches SET redis_revision = $2 WHERE id = $1"
# As if its rules had changed: the push that succeeds one day writes the windows, which the lost Redis had.
_LEAVE_TO_WORKER: Final = """
UPDATE batches SET redis_revision = 0, revision = revision + 1, rules_revision = revision + 1 WHERE id = $1"""
_SET_LOADED: Final = "UPDATE pools SET loaded = $2 WHERE id = $1"


async def rebuild_partitions(
    link: CommandSender, postgres: Connection, mark: PartitionMark, pools: Sequence[PoolState]
) -> None:
    """Rebuild batches, pools, windows and kept answers from Postgres. Codes are loaded after the blessing.

    Stopped half-way, the partitions stay fenced and the next recovery rebuilds all of it.
    """
    host_ms = await _read_host_ms(link, postgres)
    states = await inspect_partitions(link, mark.partitions)
    latest_ms = [max(host_ms, int(state["clock"])) for state in states]
    redis = FencedScripts(link, mark)
    rows = await postgres.fetch(f"{FOR_REDIS} ORDER BY id")
    # After the batches: a use that is reversed from here on raises a revision, and the worker pushes that after the
    # blessing. The other way round a reversal in between would reach Redis by neither way.
    reversed_uses = await find_pending_reversals(postgres)
    for row in rows:
        partition = partition_of(row["id"], mark.partitions)
        if row["freed_at"] is None:
            await restore_answers(postgres, redis, row["id"], partition, host_ms=host_ms)
        try:
            revision = BatchRevision.of_row(row, mark.partitions)
        except Exception:
            # It must not keep all others closed. Redis does not know it until the worker has pushed it.
            log.exception("a batch cannot be read and is not rebuilt; repair its row", batch_id=str(row["id"]))
            await postgres.execute(_LEAVE_TO_WORKER, row["id"])
            continue
        # What it replaces is given up, whatever it is.
        await revision.put(redis, Lineage())
        # An ended batch grants nothing, so it needs no windows; replays it still answers.
        if row["freed_at"] is None and row["ended_at"] is None:
            writer = fenced_writer(redis, row["id"], partition, revision.closed)
            await write_windows(
                postgres, row["id"], partition, revision.span, writer, host_ms=host_ms, latest_ms=latest_ms[partition]
            )
        await postgres.execute(_SET_REDIS_REVISION, row["id"], row["revision"])
    # Windows first: a reversal takes its use out of them. The uses come ordered by pool, and a coupon has one pool.
    for batch_id, uses in groupby(reversed_uses, lambda use: use.batch_id):
        await return_uses(redis, batch_id, list(uses))
    await mark_returned(postgres, reversed_uses)
    # Pools last: only what is quarantined and recorded by now counts as issued.
    await _rebuild_pools(link, postgres, mark, pools)


async def _rebuild_pools(
    link: CommandSender, postgres: Connection, mark: PartitionMark, pools: Sequence[PoolState]
) -> None:
    opened = [pool for pool in pools if pool.opened]
    # An import has taken them back: what is in Redis has the order before it.
    for pool in pools:
        if not pool.opened and pool.issued_before is not None:
            keys = batch_keys(pool.partition, pool.batch_id)
            command = ("UNLINK", keys.pool(pool.client_id), keys.codes(pool.client_id))
            accepted(await link.call([command], timeout_s=TIMEOUT_S))
    for at in range(0, len(opened), BATCH_SIZE):
        calls: list[tuple[Sequence[str | bytes], Sequence[Value]]] = []
        for pool in opened[at : at + BATCH_SIZE]:
            keys = batch_keys(pool.partition, pool.batch_id)
            names = (partition_keys(pool.partition).state, keys.pool(pool.client_id), keys.codes(pool.client_id))
            calls.append((names, (mark.fence, pool.pool_id, pool.issued_after, pool.total)))
        await run_all(link, REBUILD_POOL, calls)
    # The lists are empty now; by this hint the worker finds them and tops them up.
    await postgres.executemany(
        _SET_LOADED, [(pool.pool_id, pool.issued_after) for pool in opened if not pool.of_coupon]
    )

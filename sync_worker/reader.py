"""Read the streams (new entries, this worker's pending entries, those of stopped workers) and acknowledge entries.

All of it uses one fenced connection. Entries are acknowledged on the connection that they were read from, or not at
all: in another incarnation the same stream id may be another redemption.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import structlog
from redis.exceptions import NoScriptError

from issuer.contract.keys import GROUP, partition_keys
from issuer.contract.scripts import ACK_EVENTS, CREATE_GROUP
from issuer.ledger.entries import StreamEntry
from issuer.settings import Settings
from issuer.storage.incarnation import Blessed, Incarnations
from issuer.storage.redis_link import Link, NotReadyError, RedisRefusedError, Value

log = structlog.get_logger()

BLOCK_MS: Final = 500
REPLY_LIMIT_S: Final = 5.0
"""Time for a reply, beyond the time that a read may block."""
READ_BATCH_SIZE: Final = 8_192
"""Entries of one read, from all partitions. It bounds the memory."""
ACK_BATCH_SIZE: Final = 1_000
NEWER_CONSUMER: Final = "newer-version"
"""No worker has this name: what is pending under it waits for one that can read it."""


def consumer_name() -> str:
    """Return a name that is unique to this process: workers of one name would share their pending entries."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(slots=True)
class EntryBatch:
    """Entries that were read together.

    `vanished`: pending entries that were deleted from the stream, an anomaly. `newer`: entries for a later version of
    the worker.
    """

    entries: list[StreamEntry] = field(default_factory=list)
    vanished: list[tuple[int, str]] = field(default_factory=list)
    newer: list[StreamEntry] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries or self.vanished or self.newer)

    def add(self, partition: int, replied: Sequence[Any]) -> None:
        for item in replied:
            # A deleted entry: Redis before 7.0 reports it like this, later versions only for a worker's own entries.
            if item is None or not item[1]:
                self.vanished.append((partition, item[0].decode() if item else "?"))
            else:
                entry = StreamEntry.of_reply(partition, item[0], item[1])
                (self.newer if entry.is_newer else self.entries).append(entry)


class StreamReader:
    """One consumer of all partitions' streams, for one task.

    Every method raises RedisUnavailableError (NotReadyError when the data set is not the blessed one). The connection
    is closed then, and `open` must be called before any other method.
    """

    def __init__(self, settings: Settings, incarnations: Incarnations, *, min_idle_ms: int) -> None:
        self.name = consumer_name()
        self._link = Link(settings, incarnations)
        self._incarnations = incarnations
        self._min_idle_ms = min_idle_ms
        self._cursors: dict[int, bytes] = {}

    @property
    def is_open(self) -> bool:
        """Whether entries may still be acknowledged: the connection is open and its server is still the blessed one."""
        return self._link.is_open and self._link.blessed == self._incarnations.blessed

    @property
    def blessed(self) -> Blessed:
        """The pair that the connection was checked against when it opened."""
        assert self._link.blessed is not None
        return self._link.blessed

    @property
    def more_to_claim(self) -> bool:
        """Whether `claim` has not yet seen all entries of dead workers."""
        return bool(self._cursors)

    async def open(self) -> None:
        """Connect. Groups that were destroyed are created again: their streams are read from the first entry."""
        await self._link.open()
        self._cursors.clear()
        await self._call([("SCRIPT", "LOAD", script.text) for script in (ACK_EVENTS, CREATE_GROUP)])
        partitions = [partition_keys(partition) for partition in range(self._incarnations.partitions)]
        # Before the first transaction: Postgres must know them.
        tokens = await self._call([("HGET", keys.state, "lineage") for keys in partitions])
        self._incarnations.lineage.see(token or b"" for token in tokens)
        replies = await self._call(
            [
                ("EVALSHA", CREATE_GROUP.sha, 2, keys.state, keys.stream, self.blessed.epoch, GROUP)
                for keys in partitions
            ]
        )
        for partition, reply in enumerate(replies):
            if reply[0] == b"STALE_EPOCH":
                await self._not_ready("the data set carries another epoch")
            if reply[0] == b"CREATED":
                log.error("the consumer group of a partition was missing and is created again", partition=partition)

    async def close(self) -> None:
        await self._link.aclose()

    async def read_new(self, count: int, *, block: bool) -> EntryBatch:
        """Read up to `count` entries of each partition that no worker has read; wait up to BLOCK_MS with `block`."""
        waiting: tuple[Value, ...] = ("BLOCK", BLOCK_MS) if block else ()
        return await self._read(b">", count, waiting)

    async def read_own(self, count: int) -> EntryBatch:
        """Read entries that this worker has read before and not acknowledged, such as those of a lost reply."""
        return await self._read(b"0", count, ())

    async def _read(self, after: bytes, count: int, waiting: tuple[Value, ...]) -> EntryBatch:
        partitions = self._incarnations.partitions
        streams = [partition_keys(p).stream for p in range(partitions)]
        command: list[Value] = ["XREADGROUP", "GROUP", GROUP, self.name, "COUNT", self._bounded(count), *waiting]
        (reply,) = await self._call([[*command, "STREAMS", *streams, *([after] * partitions)]])
        batch = EntryBatch()
        numbers = {stream.encode(): partition for partition, stream in enumerate(streams)}
        for stream, replied in reply or ():
            batch.add(numbers[stream], replied)
        return batch

    async def claim(self, count: int) -> EntryBatch:
        """Take over entries that other workers left pending for `min_idle_ms`. Continue where the last call stopped."""
        partitions = sorted(self._cursors) or range(self._incarnations.partitions)
        head = ("XAUTOCLAIM",)
        commands = [
            (*head, partition_keys(p).stream, GROUP, self.name, self._min_idle_ms, self._cursors.get(p, b"0-0"),
             "COUNT", self._bounded(count))
            for p in partitions
        ]  # fmt: skip
        batch = EntryBatch()
        self._cursors = {}
        for partition, (cursor, replied, *deleted) in zip(partitions, await self._call(commands), strict=True):
            if cursor != b"0-0":
                self._cursors[partition] = cursor
            batch.add(partition, replied)
            batch.vanished += [(partition, stream_id.decode()) for stream_id in (deleted[0] if deleted else ())]
        return batch

    def _bounded(self, count: int) -> int:
        return max(1, min(count, READ_BATCH_SIZE // self._incarnations.partitions))

    async def leave_to_newer(self, entries: Sequence[StreamEntry]) -> None:
        """Leave entries pending for a worker of a later version, which claims them after `min_idle_ms`.

        A worker of this version claims them then, too, and leaves them again.
        """
        ids: dict[int, list[Value]] = {}
        for entry in entries:
            ids.setdefault(entry.partition, []).append(entry.stream_id)
        await self._call(
            [
                ("XCLAIM", partition_keys(partition).stream, GROUP, NEWER_CONSUMER, 0, *some, "JUSTID")
                for partition, some in ids.items()
            ]
        )

    async def ack(self, batch: EntryBatch, token: UUID) -> int:
        """Remove entries that are in Postgres from the streams. Return by how much that lowered the backlog.

        `token`: of the commit that recorded them. The next transaction looks whether Postgres knows those it replaces.
        """
        parts: dict[int, list[Value]] = {}
        for entry in batch.entries:
            parts.setdefault(entry.partition, []).extend((entry.stream_id, entry.announced))
        for partition, stream_id in batch.vanished:
            if stream_id != "?":
                parts.setdefault(partition, []).extend((stream_id, 0))
        commands: list[list[Value]] = []
        for partition, acks in parts.items():
            keys = partition_keys(partition)
            for at in range(0, len(acks), 2 * ACK_BATCH_SIZE):
                some = acks[at : at + 2 * ACK_BATCH_SIZE]
                commands.append(
                    ["EVALSHA", ACK_EVENTS.sha, 2, keys.state, keys.stream, self.blessed.epoch, GROUP, token.hex, *some]
                )
        removed = 0
        for reply in await self._run_acks(commands):
            if reply[0] == b"STALE_EPOCH":
                await self._not_ready("the data set carries another epoch")
            self._incarnations.lineage.see([reply[3]])
            removed += int(reply[2])
        return removed

    async def _run_acks(self, commands: Sequence[Sequence[Value]]) -> list[Any]:
        try:
            return await self._call(commands)
        except _ScriptGoneError:
            # After SCRIPT FLUSH. Entries that were removed before it count as 0 in the repetition.
            await self._call([("SCRIPT", "LOAD", ACK_EVENTS.text)])
            return await self._call(commands)

    async def _call(self, commands: Sequence[Sequence[Value]]) -> list[Any]:
        replies = await self._link.call(commands, timeout_s=BLOCK_MS / 1000 + REPLY_LIMIT_S)
        for reply in replies:
            if isinstance(reply, NoScriptError):
                raise _ScriptGoneError from reply
            if isinstance(reply, Exception):
                if str(reply).startswith(("NOGROUP", "UNBLOCKED")):
                    await self._not_ready(str(reply))
                await self._link.close()
                raise RedisRefusedError(str(reply)) from reply
        return replies

    async def _not_ready(self, reason: str) -> None:
        await self._link.close()
        self._incarnations.wake.set()
        raise NotReadyError(reason)


class _ScriptGoneError(Exception):
    """The server does not have the script, so none of it ran."""

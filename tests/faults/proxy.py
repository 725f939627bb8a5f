"""A TCP proxy that injects faults: resets, delays, held data, lost and truncated replies, silence."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tests.faults.loop_thread import LoopThread

_LINGER_0: Final = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """A proxy for `target` (a port on this machine). Methods may be called from any thread.

    While a direction is held, the end of a connection is not forwarded either: a broken network also loses the FIN.
    """

    def __init__(self, thread: LoopThread, target: int) -> None:
        self._thread = thread
        self.target = target
        self._pairs: set[_Pair] = set()
        # The loop references tasks only weakly; without this set a task could be garbage-collected with its connection.
        self._pumps: set[asyncio.Task[None]] = set()
        self._mute = False
        self._delay_s = 0.0
        self._truncate_to: int | None = None
        self._reset_after: bytes | None = None
        self._gates: dict[str, asyncio.Event] = {}
        self.port: int = thread.run(self._listen())

    async def _listen(self) -> int:
        for direction in ("up", "down"):
            self._gates[direction] = asyncio.Event()
            self._gates[direction].set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        def end() -> None:
            self._server.close()
            self._cut_now()

        self._thread.call(end)

    def cut(self) -> int:
        """Reset every connection (RST to both ends). Return their number."""
        return self._thread.call(self._cut_now)

    @contextmanager
    def holding(self, *directions: str) -> Iterator[None]:
        """Hold all data in `up` (to the server), in `down`, or in both. New connections are accepted."""
        gates = [self._gates[direction] for direction in directions]

        def close() -> None:
            for gate in gates:
                gate.clear()

        def reopen() -> None:
            for gate in gates:
                gate.set()

        self._thread.call(close)
        try:
            yield
        finally:
            self._thread.call(reopen)

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Accept new connections without answering them; reset the present ones."""
        self._mute = True
        self.cut()
        try:
            yield
        finally:
            self._mute = False
            self.cut()

    @contextmanager
    def delaying(self, delay_s: float) -> Iterator[None]:
        """Delay all data, in both directions."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    def truncate_next_reply(self, length: int) -> None:
        """Forward only `length` bytes of the next data from the server, then reset the connection."""
        self._truncate_to = length

    def reset_after(self, request: bytes) -> None:
        """Forward the next data to the server that contain `request`, then reset the connection: its reply is lost."""
        self._reset_after = request

    @property
    def is_armed(self) -> bool:
        """Return whether a fault requested by the two methods above has not occurred yet."""
        return self._truncate_to is not None or self._reset_after is not None

    def _cut_now(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)
        return len(pairs)

    def _reset(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        for writer in (pair.client, pair.server):
            if writer is not None:
                raw = writer.get_extra_info("socket")
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                writer.transport.abort()
        for task in pair.tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        if self._mute:
            return
        try:
            upstream, pair.server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self._reset(pair)
            return
        if pair not in self._pairs:
            # The pair was reset while the connection to the server was opened: nothing else would close that one.
            self._reset(pair)
            return
        for direction, source, sink in (("up", reader, pair.server), ("down", upstream, writer)):
            task = asyncio.create_task(self._pump(pair, direction, source, sink), name=f"proxy-{direction}")
            pair.tasks.append(task)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, pair: _Pair, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                data = await reader.read(65536)
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._gates[direction].wait()
                if not data:
                    break
                if direction == "down" and self._truncate_to is not None:
                    data, self._truncate_to = data[: self._truncate_to], None
                    writer.write(data)
                    await asyncio.sleep(0.01)
                    self._reset(pair)
                    return
                writer.write(data)
                await writer.drain()
                if direction == "up" and self._reset_after is not None and self._reset_after in data:
                    self._reset_after = None
                    await asyncio.sleep(0.02)  # long enough for the server to carry it out; the reply is lost below
                    self._reset(pair)
                    return
        except OSError:
            pass
        if pair in self._pairs:
            self._pairs.discard(pair)
            for end in (pair.client, pair.server):
                if end is not None:
                    end.close()

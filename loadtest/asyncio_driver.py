"""The bundled driver: keep-alive connections on one event loop, each with one request in flight.

Run as ``python -m loadtest.asyncio_driver options.json``; it prints one line of JSON after the word RESULT.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import uvloop


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`loadtest.drivers.Load` as JSON."""

    host: str
    port: int
    path: str
    targets: list[list[str]]
    seconds: float
    connections: int
    api_key: str | None
    per_target: int
    customer: str | None
    keys: bool
    coupon: bool
    texts: bool
    think_ms: int
    run: str


@dataclass(slots=True)
class ResponseCounts:
    """Counts and latencies of the responses."""

    latencies_s: list[float]
    refused: int = 0
    socket_errors: int = 0


class _Requests:
    """Builds the requests of all connections."""

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        authorization = f"Authorization: Bearer {options.api_key}\r\n" if options.api_key else ""
        self._campaigns = options.path.endswith("/IssueCoupon")
        self._head = (
            f"POST {options.path} HTTP/1.1\r\nHost: {options.host}:{options.port}\r\nContent-Type: application/json\r\n"
            f"{authorization}"
        )
        self._sent = 0

    def next(self) -> bytes:
        options = self._options
        if options.per_target:
            target = options.targets[min(self._sent // options.per_target, len(options.targets) - 1)]
        else:
            target = random.choice(options.targets)
        self._sent += 1
        new = UUID(int=random.getrandbits(128))
        customer = options.customer or (f"{new.hex[:20]}-@s1.example.org" if options.texts else str(new))
        head = self._head.replace("{client}", target[1])
        if head != self._head:
            body = '{"points":1}'
        elif self._campaigns:
            body = f'{{"campaignId":"{target[0]}"}}'
        elif options.coupon:
            body = f'{{"client_id":"{target[1]}","customer_id":"{customer}"}}'
        else:
            body = f'{{"batchid":"{target[0]}","clientid":"{target[1]}","customerid":"{customer}"}}'
        key = f"Idempotency-Key: {uuid4()}\r\n" if options.keys else ""
        return f"{head}{key}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class _Connection(asyncio.Protocol):
    def __init__(self, requests: _Requests, counts: ResponseCounts, until: float, think_ms: int) -> None:
        self._requests = requests
        self._counts = counts
        self._until = until
        self._think_ms = think_ms
        self._received = b""
        self._started_at = 0.0
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        if self._loop.time() >= self._until or self._transport.is_closing():
            self._transport.close()
            return
        self._started_at = time.perf_counter()
        self._transport.write(self._requests.next())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        at = lowered.index(b"content-length:")
        length = int(lowered[at + 15 :].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = b""
        self._counts.latencies_s.append(time.perf_counter() - self._started_at)
        if head[9:12] >= b"400":
            self._counts.refused += 1
        self._after_pause(self._send)

    def _after_pause(self, send: Callable[[], None]) -> None:
        if self._think_ms:
            self._loop.call_later(random.random() * 2 * self._think_ms / 1000, send)
        else:
            send()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or self._loop.time() < self._until:
            self._counts.socket_errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def drive(options: LoadOptions) -> dict[str, Any]:
    """Send the load. Return the fields of `loadtest.drivers.Sent` except the CPU time."""
    loop = asyncio.get_running_loop()
    counts, requests = ResponseCounts([]), _Requests(options)
    started_at = loop.time()
    until = started_at + options.seconds
    connections = []
    for _ in range(options.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(requests, counts, until, options.think_ms), options.host, options.port
        )
        connections.append(connection)
    await asyncio.wait([connection.done for connection in connections], timeout=options.seconds + 15)
    seconds = loop.time() - started_at
    ordered = sorted(counts.latencies_s) or [0.0]

    def percentile_ms(percent: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000, 3)

    return {
        "requests": len(counts.latencies_s), "refused": counts.refused, "seconds": round(seconds, 6),
        "p50_ms": percentile_ms(50), "p90_ms": percentile_ms(90), "p99_ms": percentile_ms(99),
        "p999_ms": percentile_ms(99.9), "max_ms": percentile_ms(100), "socket_errors": counts.socket_errors,
    }  # fmt: skip


if __name__ == "__main__":
    print("RESULT", json.dumps(uvloop.run(drive(LoadOptions(**json.loads(Path(sys.argv[1]).read_text()))))))

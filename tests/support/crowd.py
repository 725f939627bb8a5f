"""A crowd of customers over HTTP: many connections, every request queued at once, every answer kept."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import orjson
import pytest

MAX_CONCURRENT_RETRIES: Final = 2_000


@dataclass(frozen=True, slots=True)
class CrowdRequest:
    """What one customer asks for; with a key it may be asked for again without taking a second code."""

    batch_id: UUID
    client_id: UUID
    customer_id: UUID = field(default_factory=uuid4)
    key: str | None = None

    def target(self) -> tuple[str, bytes]:
        """Path and body of the request."""
        ids = {"batchid": str(self.batch_id), "clientid": str(self.client_id), "customerid": str(self.customer_id)}
        return "/api/v1/code/redeem", orjson.dumps(ids)


@dataclass(frozen=True, slots=True)
class UseWish(CrowdRequest):
    """What one customer asks of a coupon."""

    code: str = ""

    def target(self) -> tuple[str, bytes]:
        body = {"customer_id": str(self.customer_id), "client_id": str(self.client_id)}
        return f"/coupon/consume/?code={self.code}", orjson.dumps(body)


@dataclass(frozen=True, slots=True)
class CrowdAnswer:
    """Status and what there is to say: the code, the id of the consumption or entry, or the `error` of a refusal."""

    status: int
    text: str
    replayed: bool


def tally(answers: Iterable[CrowdAnswer]) -> Counter[str]:
    """How often each outcome: "200" or "201", or status and error."""
    return Counter(
        str(answer.status) if answer.status < 400 else f"{answer.status} {answer.text}" for answer in answers
    )


def issued_in(answers: Iterable[CrowdAnswer]) -> list[str]:
    """Return the codes or consumption ids of the granted requests."""
    return [answer.text for answer in answers if answer.status == 200]


@dataclass(frozen=True, slots=True)
class Rush:
    """How many requests are made at once, for how many codes, over how many connections."""

    requests: int
    stock: int
    connections: int

    @property
    def refused(self) -> int:
        """How many requests find nothing left."""
        return self.requests - self.stock


_LONG_RUSHES: Final = [
    pytest.param(Rush(6_000, 2_000, 500), id="6,000", marks=pytest.mark.long),
    pytest.param(Rush(20_000, 5_000, 1_000), id="20,000", marks=(pytest.mark.long, pytest.mark.minutes)),
]
every_rush: Final = pytest.mark.parametrize("rush", [pytest.param(Rush(600, 150, 100), id="600"), *_LONG_RUSHES])
long_rush: Final = pytest.mark.parametrize("rush", _LONG_RUSHES)


def _granted(said: dict[str, Any]) -> str:
    """Return what was granted: a use, points of an account, or a code."""
    granted = said.get("consumption_id") or said.get("entry", {}).get("id") or said["code"]
    return str(granted)


class _Seat(asyncio.Protocol):
    """One connection. Asks, waits for the answer, takes the next wish of the queue."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._received = b""
        self._index = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, index: int, request: bytes) -> None:
        self._index = index
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        length = int(lowered.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = b""
        status, said = int(head[9:12]), orjson.loads(body)
        text = said["error"] if status >= 400 else _granted(said)
        index, self._index = self._index, -1
        self._crowd.take(self, index, CrowdAnswer(status, text, b"idempotency-replayed: true" in lowered))

    def connection_lost(self, error: Exception | None) -> None:
        if self._index >= 0:
            self._crowd.fail(error or ConnectionResetError("the connection was closed before the answer"))


class Crowd:
    """Connections to one API. Use it as a context; one `ask` at a time."""

    def __init__(self, url: str, api_key: str, *, connections: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._head = (
            f"HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
        )
        self._size = connections
        self._seats: list[_Seat] = []
        self._wishes: Sequence[CrowdRequest] = ()
        self._answers: list[CrowdAnswer | None] = []
        self._next = self._open = 0
        self._done: asyncio.Future[None] | None = None
        self.granted = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(self._size):
            _, seat = await loop.create_connection(lambda: _Seat(self), *self._address)
            self._seats.append(seat)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self._seats:
            seat.transport.abort()
        await asyncio.sleep(0)

    def request(self, wish: CrowdRequest) -> bytes:
        """A wish as bytes of a request."""
        path, body = wish.target()
        key = f"Idempotency-Key: {wish.key}\r\n" if wish.key is not None else ""
        return f"POST {path} {self._head}{key}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, wishes: Sequence[CrowdRequest]) -> list[CrowdAnswer]:
        """The answers in the order of the wishes. Raises when a connection is lost over an answer."""
        if not wishes:
            return []
        self._wishes, self._answers = wishes, [None] * len(wishes)
        self._next, self._open = 0, len(wishes)
        self._done = asyncio.get_running_loop().create_future()
        for seat in self._seats:
            self._give(seat)
        await self._done
        return [answer for answer in self._answers if answer is not None]

    def answered(self) -> list[tuple[CrowdRequest, CrowdAnswer]]:
        """What was answered of the latest `ask`, also when it has failed."""
        both = zip(self._wishes, self._answers, strict=True)
        return [(wish, answer) for wish, answer in both if answer is not None]

    async def ask_until(
        self, wishes: Sequence[CrowdRequest], again: Callable[[CrowdAnswer], bool]
    ) -> tuple[list[CrowdAnswer], Counter[str]]:
        """Asks for all, then, some at a time, for those whose answer asks for it again, until none does.

        Returns the last answers, and the tally of those that were not.
        """
        final: list[CrowdAnswer] = []
        retried: Counter[str] = Counter()
        now, later = wishes, deque[CrowdRequest]()
        while now:
            answers = await self.ask(now)
            for wish, answer in zip(now, answers, strict=True):
                if again(answer):
                    later.append(wish)
                else:
                    final.append(answer)
            retried += tally(filter(again, answers))
            now = [later.popleft() for _ in range(min(MAX_CONCURRENT_RETRIES, len(later)))]
        return final, retried

    async def leave(self, wishes: Sequence[CrowdRequest]) -> None:
        """Asks on connections of their own and hangs up without waiting for an answer."""
        loop = asyncio.get_running_loop()
        for wish in wishes:
            transport, _ = await loop.create_connection(asyncio.Protocol, *self._address)
            transport.write(self.request(wish))
            transport.close()

    async def until_granted(self, count: int) -> None:
        """Waits until this crowd was handed `count` codes."""
        while self.granted < count:
            await asyncio.sleep(0.001)

    def _give(self, seat: _Seat) -> None:
        if self._next < len(self._wishes):
            index, self._next = self._next, self._next + 1
            seat.ask(index, self.request(self._wishes[index]))

    def take(self, seat: _Seat, index: int, answer: CrowdAnswer) -> None:
        """A seat has its answer."""
        self._answers[index] = answer
        self.granted += answer.status == 200 and not answer.replayed
        self._open -= 1
        if self._open == 0 and self._done is not None and not self._done.done():
            self._done.set_result(None)
        self._give(seat)

    def fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def ports(self) -> set[int]:
        """The local ports of its connections."""
        return {seat.transport.get_extra_info("sockname")[1] for seat in self._seats}

"""The short way for whole, small requests of one path: no task, no coroutine, no ASGI messages.

uvicorn makes about twenty objects and a task for every request. A route that answers thousands of times a second
may give the protocol a class of its own for its exchanges instead. Whatever is out of the ordinary (chunked or large
bodies, pipelining, HTTP/1.0, Expect, a slow reader) still goes to the same route as to an ASGI application.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

if TYPE_CHECKING:
    from issuer.http.edge.protocol import GuardedHttpToolsProtocol

Headers = list[tuple[bytes, bytes]]

MAX_FAST_PATH_BODY: Final = 4_096
"""A body that may come in several pieces, but that is not worth streaming."""


Credentials = tuple[bytes, bytes | None, int]
"""Authorization (b'': none), the last Idempotency-Key, and how many of the latter there are."""


def read_credentials(headers: Iterable[tuple[bytes, bytes]]) -> Credentials:
    """Header names are in lower case."""
    authorization, idempotency_key, keys_given = b"", None, 0
    for name, value in headers:
        if name == b"authorization":
            authorization = value
        elif name == b"idempotency-key":
            idempotency_key = value
            keys_given += 1
    return authorization, idempotency_key, keys_given


class _NoEvent(asyncio.Event):
    """Nobody waits for more of an exchange: it has all it needs when it begins."""

    def set(self) -> None:
        return


_NO_EVENT: Final = _NoEvent()


class Exchange(ABC):
    """One request and its answer. Stands where uvicorn's protocol has a RequestResponseCycle and has its attributes.

    `begin` is called once, with the whole body, and must not raise; `respond` may be called then or later, once. A
    client that has gone meanwhile gets nothing: `disconnected` tells.
    """

    __slots__ = ("body", "disconnected", "keep_alive", "protocol", "response_complete", "response_started")

    message_event = _NO_EVENT

    def __init__(self, protocol: GuardedHttpToolsProtocol) -> None:
        self.protocol = protocol
        self.body = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    @abstractmethod
    def begin(self, headers: Headers, body: bytes) -> None:
        """Takes the request. Header names are in lower case."""

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Sends the answer in one write. `head`: header lines, each with its end, content-length among them."""
        if self.response_complete:
            raise RuntimeError("answered twice")
        self.response_started = self.response_complete = True
        protocol = self.protocol
        transport = protocol.transport
        if not self.disconnected and not transport.is_closing():
            close = b"" if self.keep_alive else b"connection: close\r\n"
            transport.write(b"".join((STATUS_LINE[status], protocol.default_head(), head, close, b"\r\n", body)))
            if not self.keep_alive:
                transport.close()
        protocol.on_response_complete()

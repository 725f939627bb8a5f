"""Exchanges: one request and its answer without a task, a coroutine or ASGI messages.

uvicorn creates about twenty objects and a task for every request. A route that answers thousands of requests per second
gives the protocol a class of its own for its exchanges instead: that is the fast path, for whole, small requests. All
other requests (chunked or large bodies, pipelining, HTTP/1.0, Expect, a slow reader) take the ASGI path.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from issuer.http.edge.header_fields import HeaderFields, Headers
from issuer.http.wire import Wire

MAX_FAST_PATH_BODY: Final = 4_096
"""Bytes of a body that may arrive in several pieces, but is not worth streaming."""


class Connection(Protocol):
    """What an exchange needs of the connection that its request came from: a socket's protocol, or an ASGI server."""

    @property
    def url(self) -> bytes:
        """The request target, as in the request line."""
        ...

    @property
    def headers(self) -> Headers:
        """The headers of the request, their names in lower case."""
        ...

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the peer; None for a socket without addresses."""
        ...

    def read_body(self, exchange: Exchange) -> None:
        """Pass the body to `exchange.receive`, now or later. The exchange asks for it once the request is admitted."""
        ...

    def respond(self, exchange: Exchange, wire: Wire) -> None:
        """Send the answer. Raises RuntimeError for a second one."""
        ...


class _NeverAwaitedEvent(asyncio.Event):
    """A substitute where uvicorn wakes a task that waits for more of a request: an exchange begins with all of it."""

    def set(self) -> None:
        return


_NEVER_AWAITED: Final = _NeverAwaitedEvent()


class Exchange(ABC):
    """One request and its answer. Takes the place of uvicorn's RequestResponseCycle and has its attributes.

    The order of calls is: `begin` once, then `receive` once, unless the request is answered before. Neither may raise.
    The connection's `respond` may be called in any of them or later, once. `disconnected`: the client closed the
    connection, so the answer is not sent.
    """

    __slots__ = (
        "body", "connection", "disconnected", "fields", "headers", "keep_alive", "response_complete",
        "response_started", "url",
    )  # fmt: skip

    message_event = _NEVER_AWAITED

    def __init__(self, connection: Connection, fields: HeaderFields) -> None:
        self.connection = connection
        # Those of the connection are soon those of its next request.
        self.url = connection.url
        self.headers = connection.headers
        self.fields = fields
        self.body = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    @abstractmethod
    def begin(self) -> None:
        """Take the request. Its headers are there; its body follows when the exchange asks for it."""

    @abstractmethod
    def receive(self, body: bytes) -> None:
        """Take the whole body."""


@dataclass(frozen=True, slots=True)
class FastPath:
    """How requests of a route take the fast path. `make` returns None for a request that takes the ASGI path.

    With `takes_query`: requests with any query or none, with a body or none. Otherwise: without query, with a body.
    """

    make: Callable[[Connection, HeaderFields], Exchange | None]
    takes_query: bool = False

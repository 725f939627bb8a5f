"""The guard at the socket: bounds on what a client may send and how long it may take, before a route sees it.

uvicorn with httptools bounds neither the head nor the body of a request nor the time in which they arrive.
This subclass of its protocol does, so that the process needs no proxy in front of it. Per request it costs a
few comparisons: there are no timers per connection, one sweep a second looks at all deadlines.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from issuer.http.edge.exchange import MAX_FAST_PATH_BODY, Exchange
from issuer.http.problems.problem import MEDIA_TYPE, problem_body
from issuer.settings import Settings

UPLOAD_PATH: Final = "/api/v1/codes/upload"

MIN_BODY_RATE: Final = 16_384
"""Bytes a second that a body must come with on average, after the first `receive_timeout_s`."""
LINGER_S: Final = 2.0
"""After a refusal the connection takes what the client still sends, unread, for so long: closing at once
would reset it and the client might never see the answer."""
MAX_PIPELINED: Final = 64
NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Bounds of one API process. Sizes in bytes."""

    max_head_bytes: int = 16_384
    max_body_bytes: int = 65_536
    max_body_bytes_by_path: Mapping[str, int] = field(default_factory=dict)
    receive_timeout_s: float = 10.0
    max_connections: int = 20_000
    write_timeout_s: float = 30.0

    @classmethod
    def from_settings(cls, settings: Settings) -> EdgeLimits:
        return cls(
            max_head_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_body_bytes,
            max_body_bytes_by_path={UPLOAD_PATH: settings.max_upload_bytes},
            receive_timeout_s=settings.receive_timeout_s,
            max_connections=settings.max_connections,
        )


def _refusal(status: int, error: str, code: str) -> bytes:
    body = problem_body(status, error, code)
    head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return STATUS_LINE[status] + head.encode() + body


MALFORMED: Final = _refusal(400, "malformed request", "malformed_request")
NO_HOST: Final = _refusal(400, "exactly one Host header is needed", "malformed_request")
TIMED_OUT: Final = _refusal(408, "request timeout", "request_timeout")
BODY_TOO_LARGE: Final = _refusal(413, "body too large", "body_too_large")
HEAD_TOO_LARGE: Final = _refusal(431, "request head too large", "head_too_large")
TOO_MANY_CONNECTIONS: Final = _refusal(503, "too many connections", "too_many_connections")


class GuardedHttpToolsProtocol(HttpToolsProtocol):
    """HttpToolsProtocol within EdgeLimits. Use `guarded_protocol` to make a class with its limits."""

    limits: ClassVar[EdgeLimits] = EdgeLimits()
    express: ClassVar[Mapping[bytes, FastPath]] = {}
    """By path, as it stands in the request line: whose POST requests go the short way."""
    _head_of: ClassVar[tuple[object, bytes]] = (None, b"")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # When the client must have done its part; NEVER while it is our turn.
        self.deadline = NEVER
        self._received_since = 0.0
        self._in_head = True
        self._in_message = False
        # Whether the message that is being received has a cycle, so a handler that answers it.
        self._has_cycle = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._max_body_bytes = self.limits.max_body_bytes
        self._announced_bytes = 0
        self._hosts = 0
        # Whether there is an Expect header.
        self._has_expect_header = False
        # The message that is being received, when it goes the short way.
        self._exchange: Exchange | None = None
        # Nothing more is read from this connection; what comes is thrown away.
        self._discarding_input = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _sweep(self.loop, self.server_state, min(1.0, self.limits.receive_timeout_s / 10))
        self.deadline = self.loop.time() + self.limits.receive_timeout_s
        if len(self.connections) > self.limits.max_connections:
            self._refuse(TOO_MANY_CONNECTIONS)

    def data_received(self, data: bytes) -> None:
        if self._discarding_input:
            return
        if self._in_head and self._head_bytes + len(data) > self.limits.max_head_bytes:
            self._feed_slices(data)
            return
        self._feed(data)
        if self._in_head:
            self._head_bytes += len(data)

    def _feed_slices(self, data: bytes) -> None:
        """Feeds a large piece in slices, so that the parser never holds more of a head than is allowed."""
        size = max(1, self.limits.max_head_bytes // 8)
        for at in range(0, len(data), size):
            part = data[at : at + size]
            self._feed(part)
            if self._discarding_input:
                return
            if self._in_head:
                self._head_bytes += len(part)
                if self._head_bytes > self.limits.max_head_bytes:
                    self._refuse(HEAD_TOO_LARGE)
                    return

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            # Also raised when a callback below has already refused.
            if not self._discarding_input:
                self._refuse(MALFORMED)
        except httptools.HttpParserUpgrade:
            # No route upgrades. The request was started as a plain one; bytes behind it have no meaning.
            self._discarding_input = True
            if self.cycle is not None:
                self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        # What the inherited method prepares for ASGI is made when it is known that the request goes there.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        if self._discarding_input:
            return
        self._in_head = self._in_message = True
        self._has_cycle = self._has_expect_header = False
        self._exchange = None
        self._head_bytes = self._body_bytes = self._announced_bytes = self._hosts = 0
        self._received_since = self.loop.time()
        self.deadline = self._received_since + self.limits.receive_timeout_s

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._announced_bytes = int(value)
        elif name == b"expect":
            self._has_expect_header = True
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._discarding_input:
            return
        if self._hosts != 1 and (self._hosts or self.parser.get_http_version() != "1.0"):
            self._refuse(NO_HOST)
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(MALFORMED)
            return
        limits = self.limits
        self._max_body_bytes = limits.max_body_bytes
        if self._announced_bytes > limits.max_body_bytes:
            path = self.url.partition(b"?")[0].decode("ascii", "replace")
            self._max_body_bytes = limits.max_body_bytes_by_path.get(path, limits.max_body_bytes)
            if self._announced_bytes > self._max_body_bytes:
                self._refuse(BODY_TOO_LARGE)
                return
        way = self.express.get(self.url) or self.express.get(self.url.partition(b"?")[0])
        if way is not None and self._may_go(way):
            self._exchange = way.make(self)
        if self._exchange is not None:
            self.cycle = self._exchange  # type: ignore[assignment]
        else:
            self._prepare_scope()
            super().on_headers_complete()
        self._has_cycle = True

    def _may_go(self, way: FastPath) -> bool:
        parser = self.parser
        return bool(
            (self._has_one_part() if way.takes_query else self._announced_bytes and b"?" not in self.url)
            and self._announced_bytes <= min(MAX_FAST_PATH_BODY, self.limits.max_body_bytes)
            and not self._has_expect_header
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def _has_one_part(self) -> bool:
        """Whether there is no body, or one of an announced length and not of several parts."""
        odd = b"content-type" if self._announced_bytes else b"transfer-encoding"
        for name, value in self.headers:
            if name == odd and (not self._announced_bytes or value[:10].lower() == b"multipart/"):
                return False
        return True

    def _prepare_scope(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers

    def on_body(self, body: bytes) -> None:
        if self._discarding_input:
            return
        exchange = self._exchange
        if exchange is not None:
            # Never more than was announced, and that was looked at.
            exchange.body += body
            self._body_bytes += len(body)
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body_bytes and self._body_bytes > self._allowed_unannounced():
            self._refuse(BODY_TOO_LARGE)
            return
        super().on_body(body)

    def _allowed_unannounced(self) -> int:
        """The limit for a chunked body; announced ones were looked at before the first byte of theirs."""
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        self._max_body_bytes = self.limits.max_body_bytes_by_path.get(path, self.limits.max_body_bytes)
        return self._max_body_bytes

    def on_message_complete(self) -> None:
        # The next bytes are a head again, whoever sends them.
        self._in_head, self._in_message, self._head_bytes = True, False, 0
        if self._discarding_input:
            return
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            self.deadline = NEVER
            exchange.begin(self.headers, exchange.body)
            return
        super().on_message_complete()
        self.deadline = self._client_due()

    def on_response_complete(self) -> None:
        """As the inherited one, but the keep-alive limit is a deadline for the sweep, not a timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.deadline = self.loop.time() + self.limits.write_timeout_s
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._in_message:
            self.deadline = self.loop.time() + self.timeout_keep_alive

    def default_head(self) -> bytes:
        """The headers of every answer, such as the date. uvicorn makes a new list of them every second."""
        headers = self.server_state.default_headers
        kept, head = GuardedHttpToolsProtocol._head_of
        if kept is not headers:
            head = b"".join(b"%b: %b\r\n" % header for header in headers)
            GuardedHttpToolsProtocol._head_of = (headers, head)
        return head

    def _client_due(self) -> float:
        if self._in_message:
            return self._received_since + self.limits.receive_timeout_s + self._body_bytes / MIN_BODY_RATE
        if self.cycle is None or (self.cycle.response_complete and not self.pipeline):
            return self.loop.time() + self.timeout_keep_alive
        return NEVER

    def pause_writing(self) -> None:
        super().pause_writing()
        self.deadline = self.loop.time() + self.limits.write_timeout_s

    def resume_writing(self) -> None:
        super().resume_writing()
        self.deadline = self._client_due()

    def send_400_response(self, msg: str) -> None:
        self._refuse(MALFORMED)

    def _refuse(self, answer: bytes) -> None:
        """Answers, if an answer can stand here, and ends the connection."""
        self._discarding_input = True
        cycle = self.cycle
        if cycle is not None and not self._has_cycle and not cycle.response_complete:
            # Earlier, good requests are being answered: that is the last thing said here.
            cycle.keep_alive = False
            self.deadline = NEVER
            return
        if self._has_cycle and self._in_message:
            if cycle.response_started or self.pipeline:
                # This request has its answer, or its turn to be answered will not come.
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_reading()
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self.loop.time() + LINGER_S

    def enforce_deadline(self, now: float) -> None:
        """Called by the sweep when the deadline has passed."""
        if self.transport.is_closing() or self._discarding_input or self.flow.write_paused:
            self.transport.abort()
        elif not self._in_message:
            # Idle, or never sent a byte.
            self.transport.close()
            self.deadline = now + self.limits.write_timeout_s
        elif self.flow.read_paused:
            # We are slower than the client.
            self.deadline = now + self.limits.receive_timeout_s
        elif not self._in_head and now < self._client_due():
            self.deadline = self._client_due()
        else:
            self._refuse(TIMED_OUT)


@dataclass(frozen=True, slots=True)
class FastPath:
    """`make` makes the exchange of a request whose headers are there; None: this one goes the long way.

    With `takes_query` for requests with any query or none, with a body or none; otherwise for no query and some body.
    """

    make: Callable[[GuardedHttpToolsProtocol], Exchange | None]
    takes_query: bool = False


_swept: weakref.WeakSet[ServerState] = weakref.WeakSet()


def _sweep(loop: asyncio.AbstractEventLoop, server: ServerState, interval_s: float) -> None:
    """Looks after the deadlines of a server's connections for as long as it has any."""
    if server in _swept:
        return
    _swept.add(server)

    def look() -> None:
        now = loop.time()
        for connection in list(server.connections):
            if isinstance(connection, GuardedHttpToolsProtocol) and connection.deadline < now:
                connection.enforce_deadline(now)
        if server.connections:
            loop.call_later(interval_s, look)
        else:
            _swept.discard(server)

    loop.call_later(interval_s, look)


def guarded_protocol(
    limits: EdgeLimits, express: Mapping[bytes, FastPath] | None = None
) -> type[GuardedHttpToolsProtocol]:
    """A protocol class with these limits, for uvicorn's ``http=``. `express`: what answers which path the short way."""
    names = {"limits": limits, "express": express or {}}
    return type("GuardedHttpToolsProtocol", (GuardedHttpToolsProtocol,), names)

"""The guard at the socket: bounds on what a client may send and how long it may take, before a route sees the request.

uvicorn with httptools bounds neither the head nor the body of a request, nor the time in which they arrive. This
subclass of its protocol does, so that the process needs no proxy in front of it. The cost is a few comparisons per
request: no connection has a timer, one sweep per second looks at all deadlines.

The guard answers before anything else is known of a request: 400 for what is not HTTP, 408, 413 for an announced body
that is too large, 431, 501 and 505 for what the server does not implement. After each of them the connection ends, so
that no byte behind a refused request is read as another one. All other refusals, in the order of docs/http-api.md, are
the application's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from issuer.http.edge.asgi_cycle import AsgiCycle
from issuer.http.edge.counted_connection import AddressLimit, CountedConnection
from issuer.http.edge.deadlines import sweep_deadlines
from issuer.http.edge.exchange import MAX_FAST_PATH_BODY, Exchange, FastPath
from issuer.http.edge.header_fields import HeaderFields, header_fields
from issuer.http.edge.http2_refusal import PREFACE, Http2Refusal
from issuer.http.edge.limits import (
    BODY_TOO_LARGE,
    HEAD_TOO_LARGE,
    LINGER_S,
    MALFORMED,
    MAX_FIELDS,
    MAX_PIPELINED,
    NO_HOST,
    TIMED_OUT,
    TRAILERS_TOO_LARGE,
    EdgeLimits,
)
from issuer.http.edge.offered_upgrade import make_parser, parser_after_offer
from issuer.http.edge.request_head import has_request_line, head_refusal, head_size, is_host
from issuer.http.wire import Wire

NEVER: Final = float("inf")


class GuardedHttpToolsProtocol(CountedConnection):
    """HttpToolsProtocol within EdgeLimits. `guarded_protocol` creates a class with its limits."""

    limits: ClassVar[EdgeLimits] = EdgeLimits()
    fast_paths: ClassVar[Mapping[bytes, FastPath]] = {}
    """Of POST requests, by path as in the request line. `*` and a last segment stand for all paths that end with it."""
    request_lines: ClassVar[Mapping[bytes, bytes]] = {}
    """The request lines of these paths without a query."""
    max_fast_path_body: ClassVar[int] = MAX_FAST_PATH_BODY
    _default_head: ClassVar[tuple[object, bytes]] = (None, b"")
    """The list of default headers for which header lines were last built, and these lines."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = make_parser(self)
        # The pieces that hold the head that is being received, whether they begin with it, and whether a message has
        # ended in the last one.
        self._received = b""
        self._is_first, self._has_ended = True, False
        # Whether the message offers an upgrade; the parser then ends it at its head.
        self._has_offer = False
        # When the client must have sent what it owes; NEVER while the server owes an answer.
        self.deadline = NEVER
        self._received_since = 0.0
        self._in_head, self._in_message = True, False
        # Whether the message that is being received has a cycle, so a handler that answers it.
        self._has_cycle = False
        self._head_bytes = self._body_bytes = 0
        # Of a message whose head is complete: bytes since the last ones of its body, so chunk sizes and trailers. They
        # are none again when it ends.
        self._trailing_bytes = 0
        self._max_body_bytes = self.limits.max_body_bytes
        self._announced_bytes = 0
        # The cycle before that of the message that is being received.
        self._earlier_cycle: RequestResponseCycle | None = None
        # The message that is being received, when it takes the fast path.
        self._exchange: Exchange | None = None
        # After a refusal: nothing more is parsed, what arrives is discarded.
        self._discarding_input = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sweep_deadlines(self.loop, self.server_state, min(1.0, self.limits.receive_timeout_s / 10))
        self.deadline = self.loop.time() + self.limits.receive_timeout_s
        refusal = self.admission(self.limits.max_connections)
        if refusal is not None:
            self._refuse(refusal)
            self.make_room(self.limits.max_connections)

    def data_received(self, data: bytes) -> None:
        if self._discarding_input:
            return
        if self.cycle is None and not self._in_message and data.startswith(PREFACE):
            self._discarding_input, self.deadline = True, self.loop.time() + self.limits.receive_timeout_s
            Http2Refusal(self, self.transport).data_received(data.removeprefix(PREFACE))
        elif not self._in_head:
            self._feed_body(data)
        elif self._head_bytes + len(data) > self.limits.max_head_bytes:
            self._feed_slices(data)
        else:
            self._feed(data)

    def _feed_slices(self, data: bytes) -> None:
        """Feed a large piece in slices, so that the parser never holds more of a head than is allowed."""
        size = max(1, self.limits.max_head_bytes // 8)
        for at in range(0, len(data), size):
            part = data[at : at + size]
            if not self._in_head:
                self._feed_body(part)
            else:
                self._feed(part)
            if self._discarding_input:
                return
            if self._in_head and self._head_bytes > self.limits.max_head_bytes:
                self._refuse(HEAD_TOO_LARGE)
                return

    def _feed_body(self, data: bytes) -> None:
        """Feed what follows a head, and bound the framing of a chunked request: the parser itself collects a trailer
        of any length until its line ends. A piece with bytes of the body counts as progress.
        """
        headers, body_bytes = self.headers, self._body_bytes
        self._feed(data)
        # Each message has a list of headers of its own.
        if self._body_bytes != body_bytes or self.headers is not headers or not self._in_message:
            self._trailing_bytes = 0
            return
        self._trailing_bytes += len(data)
        if self._trailing_bytes > self.limits.max_head_bytes and not self._discarding_input:
            self._refuse(TRAILERS_TOO_LARGE)

    def _feed(self, data: bytes) -> None:
        if not self._in_message:
            self._received, self._is_first = data, True
        else:
            self._received = self._received + data if self._in_head else data
        self._has_ended = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            # Also raised when a callback below has already refused.
            if not self._discarding_input:
                self._refuse(MALFORMED)
        except httptools.HttpParserUpgrade as offer:
            self._feed_behind_offers(data, offer.args[0])
        if not self._in_message or not self._in_head:
            self._received = b""
        # A head behind the end of a message begins somewhere in this piece: `on_headers_complete` measures it.
        if self._in_head and not self._has_ended:
            self._head_bytes += len(data)

    def _feed_behind_offers(self, data: bytes, at: int) -> None:
        """Feed a piece from `at` on, where a message that offers an upgrade has its rest, to parsers of their own."""
        while not self._discarding_input:
            self._has_offer = False
            is_chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
            self.parser = parser_after_offer(
                self, self._announced_bytes, is_chunked=is_chunked, keeps_alive=self.parser.should_keep_alive()
            )
            data = data[at:]
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserError:
                if not self._discarding_input:
                    self._refuse(MALFORMED)
            except httptools.HttpParserUpgrade as offer:
                at = offer.args[0]

    def on_message_begin(self) -> None:
        # What the inherited method prepares for ASGI is created once it is known that the request takes that path.
        self.url = b""
        self.headers = []
        if self._discarding_input:
            return
        self._in_head = self._in_message = True
        self._has_cycle = self._has_offer = False
        self._head_bytes = self._body_bytes = self._announced_bytes = 0
        self._received_since = self.loop.time()
        self.deadline = self._received_since + self.limits.receive_timeout_s

    def on_header(self, name: bytes, value: bytes) -> None:
        # Called for every field of every request. What the fields say is looked up once, when all of them are there.
        if self._in_head:
            self.headers.append((name.lower(), value))
        else:
            self._discard_trailer(name, value)

    def _discard_trailer(self, name: bytes, value: bytes) -> None:
        """Count a trailer and drop it: as a header it would reach checks that were made without it."""
        if self._discarding_input:
            return
        self._head_bytes += len(name) + len(value) + len(b": \r\n")
        if self._head_bytes > self.limits.max_head_bytes:
            self._refuse(TRAILERS_TOO_LARGE)
        elif name.lower() == b"connection":
            # Not allowed here (RFC 9110, section 6.5.1), and the parser obeys it: it would read no further request.
            self._refuse(MALFORMED)

    def on_headers_complete(self) -> None:
        self._in_head = False
        # From here on it counts trailers.
        self._head_bytes = 0
        if self._discarding_input:
            return
        fields = header_fields(self.headers)
        length = fields.get(b"content-length")
        if length is not None:
            # The parser takes nothing but digits, and takes them once.
            self._announced_bytes = int(length)
        host = fields.get(b"host")
        # One that is repeated is not valid either: REPEATED is no host.
        if not is_host(host) if host is not None else self.parser.get_http_version() != "1.0":
            self._refuse(NO_HOST)
            return
        most = self.limits.max_head_bytes
        if len(self.headers) > MAX_FIELDS or (len(self._received) > most and head_size(self.url, self.headers) > most):
            self._refuse(HEAD_TOO_LARGE)
            return
        url, ways = self.url, self.fast_paths
        path = ways.get(url) or ways.get(url.partition(b"?")[0]) or ways.get(b"*" + url[url.rfind(b"/") :])
        if path is not None and self._is_ordinary(path, fields):
            self._exchange = path.make(self, fields)
        if self._exchange is not None:
            self.cycle = self._exchange  # type: ignore[assignment]
        elif (refusal := self._asgi_refusal()) is not None:
            self._refuse(refusal)
            return
        else:
            self._has_offer = self.parser.should_upgrade()
            self._prepare_scope()
            self._earlier_cycle = self.cycle
            super().on_headers_complete()
            self.cycle.__class__ = AsgiCycle
        self._has_cycle = True

    def _asgi_refusal(self) -> bytes | None:
        """Return why a request cannot take the ASGI path. The conditions of the fast path imply that it can."""
        method, url, limits = self.parser.get_method(), self.url, self.limits
        if len(self.pipeline) >= MAX_PIPELINED:
            return MALFORMED
        self._max_body_bytes = limits.max_body_bytes
        if self._announced_bytes > limits.max_body_bytes:
            self._max_body_bytes = limits.max_body_bytes_of(url)
            if self._announced_bytes > self._max_body_bytes:
                return BODY_TOO_LARGE
        if not has_request_line(self._received, method, url, is_first=self._is_first):
            return MALFORMED
        return head_refusal(method, self.parser.get_http_version(), url, self.headers)

    def _is_ordinary(self, path: FastPath, fields: HeaderFields) -> bool:
        """Whether the request may take the fast path: whole, small, and the only one that waits on its connection."""
        parser, announced_bytes, url = self.parser, self._announced_bytes, self.url
        return (
            # Without an announced length there is no body, unless it is chunked.
            (
                (b"transfer-encoding" not in fields and b"#" not in url)
                if path.takes_query
                else announced_bytes > 0 and b"?" not in url
            )
            and announced_bytes <= self.max_fast_path_body
            and b"expect" not in fields
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and self._is_first
            and self._received.startswith(self.request_lines.get(url) or b"POST %b HTTP/1.1\r\n" % url)
            # Without this header the connection is kept, and no request offers to upgrade it.
            and (b"connection" not in fields or (parser.should_keep_alive() and not parser.should_upgrade()))
        )

    def _prepare_scope(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
        # An expectation of an HTTP/1.0 request is ignored (RFC 9110, section 10.1.1).
        self.expect_100_continue = expects and self.parser.get_http_version() == "1.1"
        self.headers += headers

    def on_body(self, body: bytes) -> None:
        if self._discarding_input:
            return
        exchange = self._exchange
        self._body_bytes += len(body)
        if exchange is not None:
            # Never more than was announced, and that was checked.
            exchange.body += body
            return
        if self._body_bytes > self._max_body_bytes:
            # Only a chunked body arrives here: an announced length was checked before its first byte.
            self._max_body_bytes = self.limits.max_body_bytes_of(self.url)
            if self._body_bytes > self._max_body_bytes:
                self._refuse(BODY_TOO_LARGE)
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._has_offer:
            return
        # The next bytes are a head again, even after a refusal.
        self._in_head = self._has_ended = True
        self._in_message, self._is_first, self._head_bytes = False, False, 0
        if self._discarding_input:
            return
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            self.deadline = NEVER
            exchange.begin()
            return
        self._earlier_cycle = None
        super().on_message_complete()
        self.deadline = self._client_due()

    def read_body(self, exchange: Exchange) -> None:
        """Pass the body on at once: an exchange of the fast path begins when its request is complete."""
        exchange.receive(exchange.body)

    def respond(self, exchange: Exchange, wire: Wire) -> None:
        """Send the answer of an exchange in one write."""
        if exchange.response_complete:
            raise RuntimeError("answered twice")
        exchange.response_started = exchange.response_complete = True
        transport = self.transport
        if not exchange.disconnected and not transport.is_closing():
            # The headers of every answer, such as the date. uvicorn replaces their list once per second.
            default_headers, default_lines = GuardedHttpToolsProtocol._default_head
            if default_headers is not self.server_state.default_headers:
                default_lines = self._build_default_head()
            head, close = wire.head, b"" if exchange.keep_alive else b"connection: close\r\n"
            transport.write(b"".join((STATUS_LINE[head.status], default_lines, head.lines, close, b"\r\n", wire.body)))
            if not exchange.keep_alive:
                transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Do what the inherited method does, with the keep-alive time-out as a deadline for the sweep, not a timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.deadline = self.loop.time() + self.limits.write_timeout_s
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._in_message:
            self.deadline = self.loop.time() + self.timeout_keep_alive

    def _build_default_head(self) -> bytes:
        headers = self.server_state.default_headers
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        GuardedHttpToolsProtocol._default_head = (headers, lines)
        return lines

    def _client_due(self) -> float:
        """Return when the client must have sent what it owes; NEVER if that is nothing."""
        if self._in_message:
            return self._received_since + self.limits.body_due_s(self._announced_bytes, self._body_bytes)
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
        """Send a refusal, if an answer can stand here, and end the connection."""
        # First: what the parser still calls back for these bytes must change nothing.
        self._discarding_input = True
        cycle = self.cycle
        if self._has_cycle and self._in_message and self.pipeline and self._earlier_cycle is not None:
            # This request waits for earlier ones and is not carried out.
            self.pipeline.popleft()
            cycle = self.cycle = self._earlier_cycle
            self._has_cycle = False
        if cycle is not None and not cycle.response_complete and not (self._has_cycle and self._in_message):
            # Earlier, valid requests are being answered. Those answers are the last ones of the connection. What is
            # refused need not be a message: endless blank lines in front of one are refused, too.
            cycle.keep_alive = False
            self.deadline = NEVER
            return
        if self._has_cycle and self._in_message:
            if cycle.response_started:
                # A refusal here would be taken for the answer to another request.
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
        """End what the client did not complete in time. The sweep calls this after the deadline."""
        if self.transport.is_closing() or self._discarding_input or self.flow.write_paused:
            self.transport.abort()
        elif not self._in_message:
            # Idle, or no byte ever arrived.
            self.transport.close()
            self.deadline = now + self.limits.write_timeout_s
        elif self.flow.read_paused:
            # The server is slower than the client.
            self.deadline = now + self.limits.receive_timeout_s
        elif not self._in_head and now < self._client_due():
            self.deadline = self._client_due()
        else:
            self._refuse(TIMED_OUT)


def guarded_protocol(
    limits: EdgeLimits,
    fast_paths: Mapping[bytes, FastPath] | None = None,
    by_address: AddressLimit | None = None,
) -> type[GuardedHttpToolsProtocol]:
    """Return a protocol class with these limits and fast paths, for uvicorn's ``http=``."""
    names = {
        "limits": limits,
        "fast_paths": fast_paths or {},
        "request_lines": {path: b"POST %b HTTP/1.1\r\n" % path for path in fast_paths or {}},
        "by_address": by_address,
        "max_fast_path_body": min(MAX_FAST_PATH_BODY, limits.max_body_bytes),
    }
    return type("GuardedHttpToolsProtocol", (GuardedHttpToolsProtocol,), names)

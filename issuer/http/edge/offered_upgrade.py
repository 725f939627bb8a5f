"""The rest of a message that offers an upgrade, such as `Upgrade: h2c`.

No route upgrades: an offer is ignored and the request is answered over HTTP/1.1 (RFC 9110, section 7.8). httptools ends
a message with an offer at its head and hands back what follows. A second parser reads on from there: it is fed a head
with the same framing and without the offer, whose callbacks are discarded.
"""

from __future__ import annotations

from typing import Protocol

import httptools


class ParserCallbacks(Protocol):
    """The callbacks of a parser."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class _WithoutFirstHead:
    """Passes all callbacks on but those of the first head."""

    def __init__(self, callbacks: ParserCallbacks) -> None:
        self._callbacks = callbacks
        self._in_first_head = True
        self.on_body = callbacks.on_body
        self.on_message_complete = callbacks.on_message_complete

    def on_message_begin(self) -> None:
        if not self._in_first_head:
            self._callbacks.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._in_first_head:
            self._callbacks.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_first_head:
            self._callbacks.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._in_first_head:
            self._in_first_head = False
        else:
            self._callbacks.on_headers_complete()


def make_parser(callbacks: ParserCallbacks) -> httptools.HttpRequestParser:
    """Return a parser that leaves the refusal of versions to `head_refusal` and ignores what follows a last request."""
    parser = httptools.HttpRequestParser(callbacks)
    parser.set_dangerous_leniencies(lenient_version=True, lenient_data_after_close=True)
    return parser


def parser_after_offer(
    callbacks: ParserCallbacks, length: int, *, is_chunked: bool, keeps_alive: bool
) -> httptools.HttpRequestParser:
    """Return a parser that reads the rest of a message with this framing, then further messages."""
    parser = make_parser(_WithoutFirstHead(callbacks))
    framing = b"transfer-encoding: chunked" if is_chunked else b"content-length: %d" % length
    parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n%b\r\n" % (framing, b"" if keeps_alive else b"connection: close\r\n"))
    return parser

"""A connection that speaks HTTP/2, as gRPC clients do without asking: its requests are refused so that they understand.

A gRPC client reads no answer of HTTP/1.1, and after a bare GOAWAY it connects again at once, hundreds of times a second
(tried with grpcio). An answer with `grpc-status` ends its call with the reason; any other client of HTTP/2 reads the
415. Nothing of a request is read, so what this needs of HTTP/2 (RFC 9113) is the frames around it: a library, which
would keep streams and decode headers, would only add to what a client can make the server do.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every HTTP/2 connection begins with. It is not valid in HTTP/1.1, so that it can be recognised; in more than one
piece, which is hardly ever how it arrives, it is a malformed request."""
UNIMPLEMENTED: Final = 12
MESSAGE: Final = b"gRPC is not served here: use Connect or gRPC-Web, over HTTP/1.1 (docs/campaigns.md)"
MAX_FRAME: Final = 16_384
"""Bytes of a frame. The server's settings, which are the defaults, allow no larger one."""
MAX_SENT: Final = 1_000
"""Frames that are answered, at most."""

_HEAD: Final = struct.Struct(">BHBBI")
_HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    """Return a field as HPACK writes one without a table and without compression."""
    return b"\x00%c%b%c%b" % (len(name), name, len(value), value)


_ANSWER: Final = b"".join(
    _field(*field)
    for field in (
        (b":status", b"415"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % UNIMPLEMENTED),
        (b"grpc-message", MESSAGE),
    )
)
_NO_ERROR: Final = bytes(4)


class Http2Refusal(asyncio.Protocol):
    """The protocol of a connection that began with PREFACE, in place of the guard, which ends it at its deadline."""

    def __init__(self, guard: asyncio.Protocol, transport: asyncio.Transport) -> None:
        self._guard = guard
        self._transport = transport
        self._received = b""
        self._sent = 0
        transport.set_protocol(self)
        transport.write(_frame(_SETTINGS))

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.connection_lost(exc)

    def pause_writing(self) -> None:
        self._guard.pause_writing()

    def resume_writing(self) -> None:
        self._guard.resume_writing()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _HEAD.size and not self._transport.is_closing():
            high, low, kind, flags, stream = _HEAD.unpack_from(self._received)
            end = _HEAD.size + (high << 16) + low
            if end - _HEAD.size > MAX_FRAME or self._sent > MAX_SENT:
                self._transport.close()
            if end > len(self._received):
                return
            self._answer(kind, flags, stream, self._received[_HEAD.size : end])
            self._received = self._received[end:]

    def _answer(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            # A request may still send its body: RST_STREAM says that it is not needed.
            answer = _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _ANSWER)
            self._send(answer + _frame(_RST_STREAM, 0, stream, _NO_ERROR))
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._send(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            self._transport.close()

    def _send(self, frames: bytes) -> None:
        self._sent += 1
        self._transport.write(frames)

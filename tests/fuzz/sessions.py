"""What is sent on one connection: pipelines that are well-formed, and the same with faults in them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from tests.fuzz.requests import KINDS, OTHER_KINDS, FuzzRequest, FuzzTarget, draw

MAX_PIPELINED: Final = 8
LAST: Final = b"GET /livez HTTP/1.1\r\nHost: issuer\r\nConnection: close\r\n\r\n"
"""The last request of each session. The server closes the connection behind its answer, or earlier."""


@dataclass(frozen=True, slots=True)
class Session:
    """Pieces to send on one connection, and seconds to wait before each. `expected`: its requests, if it is
    well-formed; otherwise None.
    """

    seed: str
    pieces: tuple[tuple[float, bytes], ...]
    expected: tuple[FuzzRequest, ...] | None
    requests: int
    breaks_off: bool = False
    """The client closes the connection once everything is sent, and reads nothing."""


def make_session(seed: int, index: int, target: FuzzTarget) -> Session:
    """The session with this index."""
    name = f"{seed}:{index}"
    random = Random(name)
    count = random.randrange(1, MAX_PIPELINED)
    if random.random() < 0.5:
        requests = tuple(draw(random, target, KINDS) for _ in range(count))
        data = b"".join(request.data for request in requests) + LAST
        expected = (*requests, FuzzRequest(LAST, 200))
        return Session(name, _pieces(random, data), expected, count + 1)
    # Often alone: behind a request that is being served, a refusal has no answer of its own.
    count = random.choice((1, 1, 1, count))
    data = b"".join(draw(random, target, OTHER_KINDS).data for _ in range(count))
    for _ in range(random.randrange(1, 4)):
        data = _fault(random, data)
    breaks_off = random.random() < 0.15
    if breaks_off:
        # A fault may have removed all of it.
        data = data[: random.randint(min(1, len(data)), len(data))]
    else:
        data += LAST
    return Session(name, _pieces(random, data), None, count + 1, breaks_off)


def _pieces(random: Random, data: bytes) -> tuple[tuple[float, bytes], ...]:
    """Split the data: not at all, in a few places, or into many small pieces, some of them sent slowly."""
    cuts = random.choice((0, 0, 0, 1, 2, 5, 40))
    places = sorted(random.randrange(1, len(data)) for _ in range(cuts)) if len(data) > 1 else []
    parts = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    slow = random.random() < 0.2
    return tuple((random.choice((0, 0, 0.001, 0.02)) if slow else 0, part) for part in parts if part)


_LINES: Final = (
    b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
    b"Connection: close", b"Connection: Upgrade", b"Upgrade: h2c", b"Expect: 100-continue", b"Host: other",
    b"X : a", b" folded", b"X: a\x00b", b"X: a\rb", b"X: a\nb", b"no colon", b": no name", b"Trailer: X",
    b"X: " + b"v" * 20_000, b"Y: " + b"v" * 20_000, b"Z: " + b"v" * 20_000,
    b"Content-Length:", b"Transfer-Encoding:", b"Authorization: Bearer x",
)  # fmt: skip
_BYTES: Final = (b"\r\n", b"\r", b"\n", b"\x00", b" ", b":", b"\xff", b"0\r\n\r\n", b"\r\n\r\n", b"ffff\r\n", b"-1\r\n")
_REQUEST_LINES: Final = (
    b"GET / HTTP/2.0", b"POST / RTSP/1.0", b"GET / HTTP/0.9", b"GET /", b"GET / HTTP/1.2", b"PRI * HTTP/2.0",
    b"CONNECT a:1 HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET http://u@h/ HTTP/1.1", b"GET  / HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /..%2f HTTP/1.1", b"POST /api/v1/code/redeem HTTP/1.0",
)  # fmt: skip


def _fault(random: Random, data: bytes) -> bytes:
    """The data with one fault in them."""
    place = random.randrange(len(data) + 1)
    kind = random.randrange(8)
    if kind == 0:
        return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + data[place + random.randrange(1, 40) :]
    if kind == 2:
        return data[:place] + random.choice(_BYTES) + data[place:]
    if kind == 3:
        start = random.randrange(len(data) + 1)
        return data[:place] + data[start : start + random.randrange(1, 200)] + data[place:]
    line_end = data.find(b"\r\n", place)
    if line_end < 0:
        return data
    if kind in (4, 5):
        if random.random() < 0.5:
            line_end = data.find(b"\r\n")
        return data[:line_end] + b"\r\n" + random.choice(_LINES) + data[line_end:]
    if kind == 6:
        line_end = data.find(b" HTTP/1.1\r\n", place if random.random() < 0.5 else 0)
        if line_end < 0:
            return data
        line_start = data.rfind(b"\n", 0, line_end) + 1
        return data[:line_start] + random.choice(_REQUEST_LINES) + data[line_end + len(b" HTTP/1.1") :]
    return data[:line_end] + data[line_end:].replace(b"\r\n", b"\n", random.randrange(1, 3))

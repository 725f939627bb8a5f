"""Odd request lines, framing and use of connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.differential.case import Draw, Framing, RequestDraft


def odd_method(draw: Draw, request: RequestDraft) -> None:
    request.method = draw.one_of(
        (b"GET", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"post", b"BREW", b"QUERY")
    )
    if request.method in (b"GET", b"HEAD", b"OPTIONS", b"TRACE") and draw.happens(0.6):
        request.body, request.framing = b"", Framing.NONE


def odd_version(draw: Draw, request: RequestDraft) -> None:
    request.version = draw.one_of(
        (b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1")
    )
    if request.version == b"HTTP/1.0" and draw.happens(0.5):
        request.put((b"Connection", draw.one_of((b"keep-alive", b"close"))))
    if request.version == b"HTTP/1.0" and draw.happens(0.3):
        request.host = ()


def odd_connection(draw: Draw, request: RequestDraft) -> None:
    request.put(
        (
            b"Connection",
            draw.one_of((b"close", b"close", b"Close", b"keep-alive", b"Keep-Alive, TE", b"x", b"", b"Authorization")),
        )
    )


def upgrade(draw: Draw, request: RequestDraft) -> None:
    protocol = draw.one_of((b"websocket", b"h2c", b"TLS/1.0"))
    request.put((b"Connection", draw.one_of((b"Upgrade", b"upgrade, close"))), (b"Upgrade", protocol))


def expect(draw: Draw, request: RequestDraft) -> None:
    request.put((b"Expect", draw.one_of((b"100-continue", b"100-Continue", b"200-ok", b"", b"100-continue\xa0"))))


def odd_host(draw: Draw, request: RequestDraft) -> None:
    request.host = draw.one_of(((), (b"a", b"b"), (b"",), (b"a", b"a"), (b"\xff",), (b"issuer:80",)))


def odd_target(draw: Draw, request: RequestDraft) -> None:
    path, _, query = request.target.partition(b"?")
    if len(path) < 3:
        # It is odd already.
        return
    slash = path.removesuffix(b"/") if path.endswith(b"/") else path + b"/"
    changed = draw.one_of((
        slash, slash, b"/" + path, path.upper(), path[:-2] + b"%%%02x" % path[-2] + path[-1:], b"http://issuer" + path,
        path + b"%00", path + b"#x", path + b";v=1", b"/." + path, path + b"%ff", path + b"\xff", path[1:], b"*", b"",
        path.replace(b"/", b"//", 1), path + b"x",
    ))  # fmt: skip
    request.target = changed + (b"?" + query if query else b"")


def odd_query(draw: Draw, request: RequestDraft) -> None:
    query = draw.one_of((
        b"", b"x=1", b"code=OPEN", b"code=OPEN&code=OPEN", b"CODE=OPEN", b"code=%ff", b"code=\xff", b"code", b"=",
        b"&", b"code=OPEN;x=1", b"code=%4fPEN", b"code=OPEN%00", b"code=OPEN+", b"a=1&" * 60, b"code=%", b"code=%zz",
        b"product_id=hat", b"order_id=7", b"customer_id=x", b"client_id=aaaaaaaa-0000-4000-8000-000000000001",
        b"?", b"code=\xc3\xa9",
        b"code=OPEN#x", b"batchid=1", b"connect=v1&encoding=json&message=%7b%7d", b"x" * 3_000, b"code=OPEN%20",
    ))  # fmt: skip
    separator = b"&" if b"?" in request.target and draw.happens(0.7) else b"?"
    request.target += separator + query


def odd_length(draw: Draw, request: RequestDraft) -> None:
    size = len(request.body)
    choice = draw.random.randrange(8)
    if choice == 0:
        request.body, request.framing = b"", Framing.NONE
    elif choice == 1:
        request.body = b""
    elif choice == 2:
        request.length = b"0%d" % size
    elif choice == 3:
        request.length = draw.one_of((b"+%d" % size, b"%d, %d" % (size, size), b"-1", b"x", b"", b"0x10", b"9" * 30))
    elif choice == 4:
        request.headers.append((b"Content-Length", b"%d" % draw.one_of((size, size + 1, 0))))
    elif choice == 5:
        request.headers.append((b"Transfer-Encoding", draw.one_of((b"chunked", b"gzip, chunked", b"x"))))
    elif choice == 6:
        request.body += b" " * draw.one_of((4_096 - size, 4_097, 9_000, 65_536 - size, 65_537))
    else:
        request.body, request.behind = request.body[:-1], request.body[-1:]


def chunked(draw: Draw, request: RequestDraft) -> None:
    request.framing = Framing.CHUNKED
    request.chunk_size = draw.one_of((4_096, 1, 7, 64))
    if draw.happens(0.3):
        authorization = [header for header in request.headers if header[0].lower() == b"authorization"]
        request.trailers = draw.one_of((
            ((b"X-Trailer", b"1"),), ((b"Idempotency-Key", b"trailer"),), ((b"Authorization", b"Bearer x"),),
            tuple(authorization), ((b"Host", b"other"),), ((b"Content-Length", b"5"),), ((b"Expect", b"100-continue"),),
        ))  # fmt: skip
        if draw.happens(0.3):
            request.without(b"authorization")


def behind(draw: Draw, request: RequestDraft) -> None:
    """Bytes behind the body, which the server reads as the next request."""
    request.behind = draw.one_of((b"\r\n", b"\n", b"garbage\r\n\r\n", b"}", b"\x00", b"GET / HTTP/9.9\r\n\r\n"))


ODD_FRAMING: Final[dict[Callable[[Draw, RequestDraft], None], int]] = {
    odd_method: 5,
    odd_version: 3,
    odd_connection: 3,
    upgrade: 1,
    expect: 3,
    odd_host: 2,
    odd_target: 4,
    odd_query: 5,
    odd_length: 6,
    chunked: 5,
    behind: 2,
}

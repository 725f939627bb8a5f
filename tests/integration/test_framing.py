"""Requests on the wire by RFC 9112: what is answered, what is refused, and that no byte is read twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

import pytest

from issuer.http.edge.limits import MAX_FIELDS, EdgeLimits
from tests.support.counting_server import CountingServer
from tests.support.raw_http import read_all, read_answer, status_of

HOST: Final = b"Host: x\r\n"
SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
FOLLOWING: Final = b"GET /following HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[CountingServer]:
    with CountingServer(EdgeLimits(receive_timeout_s=60)) as running:
        yield running


def get(target: bytes = b"/", version: bytes = b"HTTP/1.1", fields: bytes = b"") -> bytes:
    return b"GET %b %b\r\n%b%b\r\n" % (target, version, HOST, fields)


def post(fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST / %b\r\n%b%b\r\n%b" % (version, HOST, fields, body)


def chunked(body: bytes, fields: bytes = b"") -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n" + fields, body)


def field(line: bytes) -> bytes:
    return get(fields=line)


REFUSED: Final = {
    # The request line.
    "no version": (400, b"GET /\r\n\r\n"),
    "HTTP/0.9": (505, get(version=b"HTTP/0.9")),
    "HTTP/1.2": (505, get(version=b"HTTP/1.2")),
    "HTTP/2.0": (505, get(version=b"HTTP/2.0")),
    "HTTP/3.0": (505, get(version=b"HTTP/3.0")),
    "HTTP/2.0 with a body": (505, post(b"Content-Length: 3\r\n", b"abc", b"HTTP/2.0")),
    "HTTP/11": (400, get(version=b"HTTP/11")),
    "http/1.1": (400, get(version=b"http/1.1")),
    "RTSP/1.0": (400, get(version=b"RTSP/1.0")),
    "RTSP/1.1": (400, get(version=b"RTSP/1.1")),
    "RTSP/1.1 with HTTP in its body": (400, post(b"Content-Length: 17\r\n", b"POST / HTTP/1.1\r\n", b"RTSP/1.1")),
    "ICE/1.0": (400, b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n"),
    "HTTP/2 preface that ends early": (400, b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n"),
    "HTTP/2 preface behind a line break": (400, b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "space behind the version": (400, get(version=b"HTTP/1.1 ")),
    "two spaces before the version": (400, get(target=b"/ ")),
    "two spaces before the target": (400, get(target=b" /")),
    "tab before the target": (400, b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    "space before the method": (400, b" " + get()),
    "unknown method": (400, b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "method in lower case": (400, b"get / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "CONNECT": (501, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    # The target.
    "fragment": (400, get(b"/a#b")),
    "fragment behind a query": (400, get(b"/a?b#c")),
    "fragment alone": (400, get(b"#")),
    "backslash": (400, get(b"/a\\b")),
    "encoded in no way": (400, get(b"/\xff\xfe")),
    "NUL in the target": (400, get(b"/\x00")),
    "no slash": (400, get(b"a")),
    "query alone": (400, get(b"?a")),
    "asterisk": (400, get(b"*")),
    "authority": (400, get(b"x:80")),
    "another scheme": (400, get(b"ftp://x/a")),
    "user information": (400, get(b"http://user:secret@x/a")),
    "no authority": (400, get(b"http:///a")),
    "authority without a path": (400, get(b"http://x")),
    # Lines.
    "bare LF": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "bare LF behind a field": (400, b"GET / HTTP/1.1\r\nHost: x\nX: a\r\n\r\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\nHost: x\r\n\n"),
    "bare CR behind a field": (400, b"GET / HTTP/1.1\r\nHost: x\rX: a\r\n\r\n"),
    "bare CR behind the version": (400, b"GET / HTTP/1.1\rHost: x\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n"),
    # Fields.
    "obs-fold": (400, field(b"X: a\r\n b\r\n")),
    "obs-fold of the first field": (400, b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
    "space before the colon": (400, field(b"X : a\r\n")),
    "no colon": (400, field(b"X\r\n")),
    "no name": (400, field(b": a\r\n")),
    "control character in a name": (400, field(b"X\x01: a\r\n")),
    "control character in a value": (400, field(b"X: a\x01b\r\n")),
    "NUL in a value": (400, field(b"X: a\x00b\r\n")),
    "too many fields": (431, field(b"X: a\r\n" * MAX_FIELDS)),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, field(b"Host: y\r\n")),
    "the same Host twice": (400, field(b"Host: x\r\n")),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    "Host with user information": (400, b"GET / HTTP/1.1\r\nHost: a@x\r\n\r\n"),
    "Host with a space": (400, b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n"),
    "two Hosts in one": (400, b"GET / HTTP/1.1\r\nHost: x, y\r\n\r\n"),
    # The length.
    "two lengths": (400, post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"ab")),
    "the same length twice": (400, post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"a")),
    "two lengths in one": (400, post(b"Content-Length: 1, 1\r\n", b"a")),
    "length with a plus": (400, post(b"Content-Length: +4\r\n", b"abcd")),
    "negative length": (400, post(b"Content-Length: -1\r\n")),
    "hexadecimal length": (400, post(b"Content-Length: 0x4\r\n", b"abcd")),
    "length with an underscore": (400, post(b"Content-Length: 1_0\r\n", b"abcdefghij")),
    "empty length": (400, post(b"Content-Length:\r\n")),
    "length of 30 digits": (400, post(b"Content-Length: " + b"9" * 30 + b"\r\n")),
    "length, then coding": (400, post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
    "coding, then length": (400, post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n")),
    # Transfer codings.
    "gzip": (501, post(b"Transfer-Encoding: gzip\r\n")),
    "gzip, chunked": (501, post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n")),
    "gzip and chunked in two fields": (
        501, post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    ),
    "identity": (501, post(b"Transfer-Encoding: identity\r\n")),
    "identity, chunked": (501, post(b"Transfer-Encoding: identity, chunked\r\n", b"0\r\n\r\n")),
    "xchunked": (501, post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n")),
    "chunked with a parameter": (501, post(b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n")),
    "chunked twice": (400, post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n")),
    "chunked in two fields": (400, chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n")),
    "chunked, identity": (400, post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n")),
    "vertical tab before chunked": (400, post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n")),
    "empty coding": (400, post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n")),
    "chunked in HTTP/1.0": (400, post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.0")),
    # Chunks.
    "size with 0x": (400, chunked(b"0x4\r\nabcd\r\n0\r\n\r\n")),
    "size with a plus": (400, chunked(b"+4\r\nabcd\r\n0\r\n\r\n")),
    "negative size": (400, chunked(b"-4\r\nabcd\r\n0\r\n\r\n")),
    "size with a space": (400, chunked(b"4 \r\nabcd\r\n0\r\n\r\n")),
    "size over 64 bits": (400, chunked(b"ffffffffffffffff1\r\na")),
    "no size": (400, chunked(b"\r\nabcd\r\n0\r\n\r\n")),
    "bare LF behind a size": (400, chunked(b"4\nabcd\r\n0\r\n\r\n")),
    "bare LF behind a chunk": (400, chunked(b"4\r\nabcd\n0\r\n\r\n")),
    "chunk longer than its size": (400, chunked(b"4\r\nabcde\r\n0\r\n\r\n")),
    "bare LF in an extension": (400, chunked(b"4;a\nabcd\r\n0\r\n\r\n")),
    "line break in a quoted extension": (400, chunked(b'4;a="\r\n"\r\nabcd\r\n0\r\n\r\n')),
    "extension too long": (431, chunked(b"4;" + b"a" * 40_000 + b"\r\nabcd\r\n0\r\n\r\n")),
    # Trailers.
    "length as a trailer": (400, chunked(b"0\r\nContent-Length: 4\r\n\r\n")),
    "coding as a trailer": (400, chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    "connection as a trailer": (400, chunked(b"0\r\nConnection: close\r\n\r\n")),
    "obs-fold of a trailer": (400, chunked(b"0\r\nX: a\r\n b\r\n\r\n")),
    "bare LF behind a trailer": (400, chunked(b"0\r\nX: a\n\r\n")),
}  # fmt: skip
"""The status of each refusal, and the request."""


@pytest.mark.parametrize(("status", "request_bytes"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_request_ends_the_connection(server: CountingServer, status: int, request_bytes: bytes) -> None:
    """Neither the bytes that came with it nor later ones are read as another request."""
    server.app.seen.clear()
    with server.connect() as connection:
        connection.sendall(request_bytes + SMUGGLED)
        head, _ = read_answer(connection)
        assert status_of(head) == status
        assert b"connection: close" in head
        assert b"application/problem+json" in head
        send_what_is_taken(connection, SMUGGLED)
        assert read_all(connection) == b""
    assert "/smuggled" not in server.app.seen


@pytest.mark.parametrize(("status", "request_bytes"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_request_behind_another_one_ends_the_connection(
    server: CountingServer, status: int, request_bytes: bytes
) -> None:
    """The refusal is an answer of its own or the end of the connection, and nothing behind it is read."""
    server.app.seen.clear()
    with server.connect() as connection:
        connection.sendall(get(b"/first") + request_bytes + SMUGGLED)
        answers = read_all(connection)
    statuses = [int(answer[:3]) for answer in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, status][: len(statuses)]
    assert "/smuggled" not in server.app.seen


def send_what_is_taken(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except ConnectionError:
        return


TAKEN: Final = {
    "absolute form": get(b"http://other:80/path?a"),
    "absolute form in upper case": get(b"HTTPS://other/path"),
    "absolute form with an IPv6 address": get(b"http://[::1]:80/path"),
    "empty line before the request": b"\r\n" + get(b"/path"),
    "Host of an IPv6 address": b"GET /path HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n",
    "empty Host": b"GET /path HTTP/1.1\r\nHost:\r\n\r\n",
    "Host with a port": b"GET /path HTTP/1.1\r\nHost: example.org:8000\r\n\r\n",
    "as many fields as may be": get(b"/path", fields=b"X: a\r\n" * (MAX_FIELDS - 1)),
    "space around a value": get(b"/path", fields=b"X: \t a\t \r\n"),
    "value of Latin-1": get(b"/path", fields=b"X: \xe9\r\n"),
    "empty value": get(b"/path", fields=b"X:\r\nY: \r\n"),
}


@pytest.mark.parametrize("request_bytes", TAKEN.values(), ids=TAKEN.keys())
def test_what_the_rfc_allows_is_answered(server: CountingServer, request_bytes: bytes) -> None:
    server.app.seen.clear()
    with server.connect() as connection:
        connection.sendall(request_bytes + FOLLOWING)
        assert status_of(read_answer(connection)[0]) == 200
        assert status_of(read_answer(connection)[0]) == 200
    assert server.app.seen == ["/path", "/following"]


OFFERS: Final = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Upgrade: TLS/1.0\r\nConnection: keep-alive, upgrade\r\n",
    "upgrade that is not named": b"Upgrade: h2c\r\n",
}
BODY: Final = b"hello, body"
FRAMINGS: Final = {
    "length": (b"Content-Length: 11\r\n", BODY),
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n6;ext\r\n, body\r\n0\r\nX-Trailer: 1\r\n\r\n"),
}
METHODS: Final = (b"POST", b"PUT", b"PATCH", b"DELETE", b"GET")


def in_pieces(head: bytes, body: bytes, split: str) -> list[bytes]:
    whole = head + body
    return {
        "one piece": [whole],
        "body later": [head, body],
        "body in pieces": [head + body[:3], body[3:4], body[4:]],
        "byte by byte": [bytes([byte]) for byte in whole],
    }[split]


@pytest.mark.parametrize("split", ["one piece", "body later", "body in pieces", "byte by byte"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("method", METHODS)
def test_an_offered_upgrade_keeps_the_body(
    server: CountingServer, method: bytes, offer: str, framing: str, split: str
) -> None:
    """The request is answered over HTTP/1.1, and the connection serves the next ones."""
    fields, body = FRAMINGS[framing]
    head = b"%b /offer HTTP/1.1\r\n%b%b%b\r\n" % (method, HOST, OFFERS[offer], fields)
    pieces = in_pieces(head, body, split)
    pieces[-1] += head + body + FOLLOWING
    server.app.seen.clear()
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        assert [read_answer(connection)[1] for _ in range(3)] == [b"11", b"11", b"0"]
        assert read_all(connection) == b""
    assert server.app.seen == ["/offer", "/offer", "/following"]


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offered_upgrade_without_a_body(server: CountingServer, offer: str) -> None:
    with server.connect() as connection:
        connection.sendall((get(fields=OFFERS[offer]) * 3) + FOLLOWING)
        assert [read_answer(connection)[1] for _ in range(4)] == [b"0"] * 4


@pytest.mark.parametrize(("version", "connection_field"), [(b"1.1", b"Upgrade, close"), (b"1.0", b"Upgrade")])
def test_an_offered_upgrade_on_a_last_request(server: CountingServer, version: bytes, connection_field: bytes) -> None:
    fields = b"Connection: %b\r\nUpgrade: h2c\r\nContent-Length: 11\r\n" % connection_field
    server.app.seen.clear()
    with server.connect() as connection:
        connection.sendall(post(fields, BODY, b"HTTP/" + version) + SMUGGLED)
        head, body = read_answer(connection)
        assert (status_of(head), body) == (200, b"11")
        assert b"connection: close" in head
        assert read_all(connection) == b""
    assert server.app.seen == ["/"]


def test_an_offered_upgrade_has_the_limits_of_other_requests(server: CountingServer) -> None:
    announced = post(OFFERS["h2c"] + b"Content-Length: 70000\r\n")
    body = post(OFFERS["h2c"] + b"Transfer-Encoding: chunked\r\n", b"11170\r\n" + b"x" * 70_000 + b"\r\n0\r\n\r\n")
    trailers = post(OFFERS["h2c"] + b"Transfer-Encoding: chunked\r\n", b"0\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
    for status, request in ((413, announced), (413, body), (431, trailers)):
        with server.connect() as connection:
            send_what_is_taken(connection, request)
            assert status_of(read_answer(connection)[0]) == status


@pytest.mark.parametrize("offer", ["", *OFFERS])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_client_that_expects_a_continue_gets_one(server: CountingServer, framing: str, offer: str) -> None:
    fields, body = FRAMINGS[framing]
    with server.connect() as connection:
        connection.sendall(post(b"Expect: 100-continue\r\n" + OFFERS.get(offer, b"") + fields))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + FOLLOWING)
        assert [read_answer(connection)[1] for _ in range(2)] == [b"11", b"0"]


def test_an_http_1_0_client_gets_no_continue(server: CountingServer) -> None:
    with server.connect() as connection:
        connection.sendall(post(b"Expect: 100-continue\r\nContent-Length: 11\r\n", BODY, b"HTTP/1.0"))
        assert status_of(read_answer(connection)[0]) == 200


def test_an_answer_instead_of_a_continue_ends_the_connection(server: CountingServer) -> None:
    """The client may send the body or not: what follows on the connection has no certain meaning."""
    server.app.seen.clear()
    with server.connect() as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\n%bExpect: 100-continue\r\nContent-Length: 33\r\n\r\n" % HOST)
        head, _ = read_answer(connection)
        assert b"connection: close" in head
        send_what_is_taken(connection, SMUGGLED)
        assert read_all(connection) == b""
    assert server.app.seen == ["/early"]


def test_a_continue_is_expected_of_nothing_but_a_body(server: CountingServer) -> None:
    with server.connect() as connection:
        connection.sendall(get(fields=b"Expect: 100-continue\r\n") + FOLLOWING)
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200") == 2


def wait_until_read(server: CountingServer) -> None:
    """Return once the server has read what was sent: the answer on another connection comes behind it."""
    with server.connect() as other:
        other.sendall(FOLLOWING)
        assert status_of(read_all(other)) == 200


def test_a_faulty_body_behind_requests_costs_none_of_their_answers(server: CountingServer) -> None:
    faulty = chunked(b"4\r\nabcde\r\n0\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(get(b"/slow") + get(b"/b") + faulty + SMUGGLED)
        wait_until_read(server)
        server.release()
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200") == answers.count(b"HTTP/1.1 ") == 2
    assert b"connection: close" in answers


@pytest.mark.parametrize(
    ("fields", "behind"),
    [
        pytest.param(b"Connection: close\r\n", SMUGGLED, id="a request behind the last one"),
        pytest.param(b"Connection: close\r\n", b"\0", id="a byte behind the last request"),
        # Refused between two messages.
        pytest.param(b"", b"\r\n" * EdgeLimits().max_head_bytes, id="endless blank lines"),
    ],
)
def test_what_follows_a_request_costs_it_no_answer(
    server: CountingServer, fields: bytes, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It arrives while the request is being answered."""
    with server.connect() as connection:
        for piece in (get(b"/slow", fields=fields), behind):
            connection.sendall(piece)
            wait_until_read(server)
        server.release()
        answers = read_all(connection)
    assert status_of(answers) == 200
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answers
    assert "Exception in ASGI application" not in caplog.text


def test_nothing_follows_a_refusal(server: CountingServer, caplog: pytest.LogCaptureFixture) -> None:
    """The application asks for a body that was refused before it asked."""
    with server.connect() as connection:
        connection.sendall(chunked(b"x", b"Expect: 100-continue\r\n").replace(b"POST / ", b"POST /slow "))
        assert status_of(read_answer(connection)[0]) == 400
        server.release()
        assert read_all(connection) == b""
    assert "Exception in ASGI application" not in caplog.text

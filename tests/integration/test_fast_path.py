"""The fast path from the socket to a route: whole, small requests take it, all others the ASGI path."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from issuer.http.edge.exchange import MAX_FAST_PATH_BODY, Connection, Exchange, FastPath
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.edge.limits import EdgeLimits
from issuer.http.edge.protocol import guarded_protocol
from issuer.http.wire import Wire, make_head
from tests.support.edge_server import EdgeServer
from tests.support.raw_http import read_answer
from tests.support.servers import wait_until

PATH: Final = "/fast"
WITH_QUERY: Final = "/with-query"
"""A path whose requests take the fast path with a query or none, and with a body or none."""
BODY: Final = b'{"a":1}'


class Echo(Exchange):
    """Answers with the length of the body; one with the header X-Later is answered when `release` is called."""

    __slots__ = ()
    waiting: Final[list[Echo]] = []
    arrived: Final = threading.Event()

    def begin(self) -> None:
        self.connection.read_body(self)

    def receive(self, body: bytes) -> None:
        if self.fields.get(b"x-later") == b"yes":
            self.waiting.append(self)
            self.arrived.set()
        else:
            self.answer(len(body))

    def answer(self, size: int) -> None:
        text = b"fast %d" % size
        self.connection.respond(self, Wire(make_head(200, [(b"content-length", b"%d" % len(text))]), text))


def unless_multipart(connection: Connection, fields: HeaderFields) -> Echo | None:
    """What a route does that leaves some of its requests to the ASGI path."""
    return None if fields.get(b"content-type", b"").startswith(b"multipart/") else Echo(connection, fields)


async def asgi_path(scope: Scope, receive: Receive, send: Send) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    text = b"asgi %d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


class EchoServer(EdgeServer):
    def __init__(self) -> None:
        paths = {PATH.encode(): FastPath(Echo), WITH_QUERY.encode(): FastPath(unless_multipart, takes_query=True)}
        super().__init__(asgi_path, guarded_protocol(EdgeLimits(), paths))

    def release(self) -> None:
        """Answer the exchange that waits."""
        self.loop.call_soon_threadsafe(Echo.waiting.pop().answer, 0)


@pytest.fixture
def server() -> Iterator[EchoServer]:
    Echo.waiting.clear()
    Echo.arrived.clear()
    with EchoServer() as running:
        yield running


def request(*headers: str, body: bytes = BODY, path: str = PATH, version: str = "1.1", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_whole_requests_take_the_fast_path_again_and_again(server: EchoServer) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(request())
            head, body = read_answer(connection)
            assert body == b"fast 7"
            assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert b"connection" not in head


def test_a_request_that_arrives_byte_by_byte_takes_the_fast_path(server: EchoServer) -> None:
    with server.connect() as connection:
        for byte in request():
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[1] == b"fast 7"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request(path="/other"), b"asgi 7"),
        (request(path=PATH + "?query"), b"asgi 7"),
        (request(method="PUT"), b"asgi 7"),
        (request(version="1.0"), b"asgi 7"),
        (request("Connection: close"), b"asgi 7"),
        (request(body=b""), b"asgi 0"),
        (request(body=b"x" * MAX_FAST_PATH_BODY), b"fast 4096"),
        (request(body=b"x" * (MAX_FAST_PATH_BODY + 1)), b"asgi 4097"),
        (request("Connection: keep-alive"), b"fast 7"),
        (
            b"POST /fast HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"asgi 3",
        ),
    ],
)
def test_only_ordinary_requests_take_the_fast_path(server: EchoServer, sent: bytes, expected: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        assert read_answer(connection)[1] == expected


def test_a_client_that_expects_a_continue_gets_one(server: EchoServer) -> None:
    with server.connect() as connection:
        head, body = request("Expect: 100-continue")[: -len(BODY)], BODY
        connection.sendall(head)
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection)[1] == b"asgi 7"


def test_answers_to_pipelined_requests_keep_their_order(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes") + request(body=b"12") + request(body=b"123"))
        assert Echo.arrived.wait(20)
        server.release()
        assert [read_answer(connection)[1] for _ in range(3)] == [b"fast 0", b"asgi 2", b"asgi 3"]
        connection.sendall(request())
        assert read_answer(connection)[1] == b"fast 7"


def test_a_closed_connection_gets_no_answer_and_affects_no_other(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes"))
        assert Echo.arrived.wait(20)
    [closed] = Echo.waiting
    wait_until(lambda: closed.disconnected, "the server knows that the connection is closed")
    server.release()
    with server.connect() as connection:
        connection.sendall(request())
        assert read_answer(connection)[1] == b"fast 7"


def test_a_stopping_server_answers_pending_requests_and_announces_the_close(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes"))
        assert Echo.arrived.wait(20)
        [waiting] = Echo.waiting
        server.server.should_exit = True
        wait_until(lambda: not waiting.keep_alive, "the server is stopping")
        server.release()
        head, body = read_answer(connection)
        assert body == b"fast 0"
        assert b"\r\nconnection: close" in head
        assert connection.recv(1) == b""


def test_an_incomplete_request_is_not_carried_out(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes")[:-3])
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(65_536)
    assert not Echo.arrived.is_set()


CHUNKED: Final = (
    f"POST {WITH_QUERY}?a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
).encode()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request(path=WITH_QUERY), b"fast 7"),
        (request(path=f"{WITH_QUERY}?code=1"), b"fast 7"),
        (request(path=f"{WITH_QUERY}?code=1", body=b""), b"fast 0"),
        (f"POST {WITH_QUERY}?code=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"fast 0"),
        (request("Transfer-Encoding: identity", path=f"{WITH_QUERY}?code=1", body=b""), b""),
        (CHUNKED, b"asgi 2"),
        (request("Content-Type: multipart/form-data; boundary=x", path=f"{WITH_QUERY}?a"), b"asgi 7"),
        (request(path=f"{WITH_QUERY}/more?a"), b"asgi 7"),
        (request(path=f"{WITH_QUERY}?a", method="PUT"), b"asgi 7"),
        (request(path=f"{PATH}?a"), b"asgi 7"),
        (request(path=PATH, body=b""), b"asgi 0"),
    ],
)  # fmt: skip
def test_a_path_with_queries(server: EchoServer, sent: bytes, expected: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent + request())
        head, body = read_answer(connection)
        assert body == expected if expected else b" 400 " in head
        if expected:
            assert read_answer(connection)[1] in (b"fast 7", b"asgi 7"), "the connection stays usable"

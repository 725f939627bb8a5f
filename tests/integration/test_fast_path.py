"""The short way from the socket to a route: whole requests take it, all others the long one, with the same answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from issuer.http.edge.exchange import MAX_FAST_PATH_BODY, Exchange, Headers
from issuer.http.edge.protocol import EdgeLimits, FastPath, guarded_protocol
from tests.support.edge_server import EdgeServer
from tests.support.raw_http import read_answer
from tests.support.servers import wait_until

PATH: Final = "/express"
ASKING: Final = "/asking"
"""A path that goes the short way with a query or none, and with a body or none."""
BODY: Final = b'{"a":1}'


class Echo(Exchange):
    """Answers with the length of the body; one that asks for it is answered later, when `release` is called."""

    __slots__ = ()
    waiting: Final[list[Echo]] = []
    arrived: Final = threading.Event()

    def begin(self, headers: Headers, body: bytes) -> None:
        if (b"x-later", b"yes") in headers:
            self.waiting.append(self)
            self.arrived.set()
        else:
            self.answer(len(body))

    def answer(self, size: int) -> None:
        text = b"express %d" % size
        self.respond(200, b"content-length: %d\r\n" % len(text), text)


async def long_way(scope: Scope, receive: Receive, send: Send) -> None:
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
        ways = {PATH.encode(): FastPath(Echo), ASKING.encode(): FastPath(Echo, takes_query=True)}
        super().__init__(long_way, guarded_protocol(EdgeLimits(), ways))

    def release(self) -> None:
        """Answers the one that waits."""
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


def test_whole_requests_go_the_short_way_again_and_again(server: EchoServer) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(request())
            head, body = read_answer(connection)
            assert body == b"express 7"
            assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert b"connection" not in head


def test_a_request_that_comes_byte_by_byte_is_the_same(server: EchoServer) -> None:
    with server.connect() as connection:
        for byte in request():
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[1] == b"express 7"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request(path="/other"), b"asgi 7"),
        (request(path=PATH + "?query"), b"asgi 7"),
        (request(method="PUT"), b"asgi 7"),
        (request(version="1.0"), b"asgi 7"),
        (request("Connection: close"), b"asgi 7"),
        (request(body=b""), b"asgi 0"),
        (request(body=b"x" * MAX_FAST_PATH_BODY), b"express 4096"),
        (request(body=b"x" * (MAX_FAST_PATH_BODY + 1)), b"asgi 4097"),
        (request("Connection: keep-alive"), b"express 7"),
        (
            b"POST /express HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"asgi 3",
        ),
    ],
)
def test_only_what_is_ordinary_goes_the_short_way(server: EchoServer, sent: bytes, expected: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        assert read_answer(connection)[1] == expected


def test_who_waits_for_a_continue_gets_one(server: EchoServer) -> None:
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
        assert [read_answer(connection)[1] for _ in range(3)] == [b"express 0", b"asgi 2", b"asgi 3"]
        connection.sendall(request())
        assert read_answer(connection)[1] == b"express 7"


def test_a_client_that_has_gone_is_not_answered_and_harms_nobody(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes"))
        assert Echo.arrived.wait(20)
    [gone] = Echo.waiting
    wait_until(lambda: gone.disconnected, "the server knows that the client has gone")
    server.release()
    with server.connect() as connection:
        connection.sendall(request())
        assert read_answer(connection)[1] == b"express 7"


def test_a_server_that_stops_answers_what_it_has_and_says_that_it_closes(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes"))
        assert Echo.arrived.wait(20)
        [waiting] = Echo.waiting
        server.server.should_exit = True
        wait_until(lambda: not waiting.keep_alive, "the server is stopping")
        server.release()
        head, body = read_answer(connection)
        assert body == b"express 0"
        assert b"\r\nconnection: close" in head
        assert connection.recv(1) == b""


def test_a_request_that_was_cut_off_is_not_carried_out(server: EchoServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("X-Later: yes")[:-3])
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(65_536)
    assert not Echo.arrived.is_set()


CHUNKED: Final = (
    f"POST {ASKING}?a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
).encode()


@pytest.mark.parametrize(
    ("sent", "way"),
    [
        (request(path=ASKING), b"express 7"),
        (request(path=f"{ASKING}?code=1"), b"express 7"),
        (request(path=f"{ASKING}?code=1", body=b""), b"express 0"),
        (f"POST {ASKING}?code=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"express 0"),
        (request("Transfer-Encoding: identity", path=f"{ASKING}?code=1", body=b""), b""),
        (CHUNKED, b"asgi 2"),
        (request("Content-Type: multipart/form-data; boundary=x", path=f"{ASKING}?a"), b"asgi 7"),
        (request(path=f"{ASKING}/more?a"), b"asgi 7"),
        (request(path=f"{ASKING}?a", method="PUT"), b"asgi 7"),
        (request(path=f"{PATH}?a"), b"asgi 7"),
        (request(path=PATH, body=b""), b"asgi 0"),
    ],
)  # fmt: skip
def test_a_path_with_queries(server: EchoServer, sent: bytes, way: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent + request())
        head, body = read_answer(connection)
        assert body == way if way else b" 400 " in head
        if way:
            assert read_answer(connection)[1] in (b"express 7", b"asgi 7"), "the connection goes on"

"""The guard at the socket, through raw sockets against a real uvicorn."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from issuer.http.edge.limits import EdgeLimits
from issuer.http.edge.protocol import guarded_protocol
from tests.support.counting_server import Counting, CountingServer
from tests.support.edge_server import EdgeServer
from tests.support.raw_http import read_all, status_of

LIMITS = EdgeLimits(
    max_head_bytes=16_384,
    max_body_bytes=65_536,
    max_body_bytes_by_path={"/upload": 4_000_000},
    receive_timeout_s=60,
    max_connections=30,
)


@pytest.fixture(scope="module")
def server() -> Iterator[CountingServer]:
    with CountingServer(LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def impatient() -> Iterator[CountingServer]:
    """A server whose time limit for a request the tests wait for; no test has to be faster than it."""
    with CountingServer(replace(LIMITS, receive_timeout_s=0.3)) as running:
        yield running


def exchange(server: CountingServer, request: bytes) -> bytes:
    with server.connect() as connection:
        connection.sendall(request)
        return read_all(connection)


def problem_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status_of(answer)
    return problem


def get(path: str = "/", *headers: str, close: bool = True) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send_until_refused(connection: socket.socket, piece: bytes, most: int) -> int:
    """How many bytes the server took before it closed."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def test_an_ordinary_request_is_answered(server: CountingServer) -> None:
    answer = exchange(server, post("/", b"hello", "Content-Length: 5"))
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n5")


def test_a_request_that_arrives_byte_by_byte_is_answered(server: CountingServer) -> None:
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/", b"hello", "Content-Length: 5"):
            connection.sendall(bytes([byte]))
        assert read_all(connection).endswith(b"\r\n\r\n5")


def test_a_10_kb_header_is_accepted(server: CountingServer) -> None:
    assert status_of(exchange(server, get("/", f"X-Long: {'a' * 10_000}"))) == 200


@pytest.mark.parametrize(
    "head",
    [
        get("/", f"X-Long: {'a' * 20_000}"),
        get("/" + "a" * 20_000),
        get("/", *[f"X-{number}: value" for number in range(2_000)]),
    ],
    ids=["header", "path", "many headers"],
)
def test_a_head_over_the_limit_is_refused(server: CountingServer, head: bytes) -> None:
    answer = exchange(server, head)
    assert status_of(answer) == 431
    assert problem_of(answer)["code"] == "head_too_large"


@pytest.mark.parametrize(("size", "status"), [(12_000, 200), (20_000, 431), (60_000, 431)])
def test_a_head_behind_a_body_has_the_same_limit(server: CountingServer, size: int, status: int) -> None:
    """What arrives before it, in one piece with it, neither counts for it nor hides it."""
    body, following = b"x" * 10_000, get(f"/{size}", f"X-Long: {'a' * size}")
    with server.connect() as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10000\r\n\r\n")
        # Now the server has taken in the head: the next piece begins with the body.
        assert status_of(connection.recv(65_536)) == 100
        connection.sendall(body + following)
        # A refusal behind a request that is not answered yet has no answer: it ends the connection.
        assert statuses_of(read_all(connection)) in ([200, status], [200])
        assert server.app.seen.count(f"/{size}") == (status == 200)
    with server.connect() as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + body + following[:6_000])
        assert status_of(connection.recv(65_536)) == 200
        connection.sendall(following[6_000:])
        assert statuses_of(read_all(connection)) == [status]


def statuses_of(answers: bytes) -> list[int]:
    return [int(answer[:3]) for answer in answers.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
def test_90_mb_of_headers_are_neither_read_nor_kept(server: CountingServer, start: bytes) -> None:
    piece = b"a" * 65_536 if start.endswith(b"X: ") else (b"X-Some-Header: " + b"v" * 60 + b"\r\n") * 800
    before = psutil.Process().memory_info().rss
    with server.connect() as connection:
        connection.sendall(start)
        send_until_refused(connection, piece, 90_000_000)
        answer = read_all(connection)
    assert not answer or status_of(answer) == 431
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_a_300_mb_body_is_refused_by_its_announced_length(server: CountingServer) -> None:
    seen = len(server.app.seen)
    with server.connect() as connection:
        connection.sendall(post("/huge", b"", "Content-Length: 300000000"))
        answer = connection.recv(65_536)
        assert status_of(answer) == 413
        send_until_refused(connection, b"x" * 1_000_000, 300_000_000)
    assert len(server.app.seen) == seen


def test_an_endless_chunked_body_is_refused_while_it_arrives(server: CountingServer) -> None:
    before, broken_off = psutil.Process().memory_info().rss, server.app.broken_off
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(post("/chunked", b"", "Transfer-Encoding: chunked"))
        send_until_refused(connection, chunk, 300_000_000)
        answer = read_all(connection)
    assert not answer or problem_of(answer)["code"] == "body_too_large"
    assert psutil.Process().memory_info().rss - before < 20_000_000
    assert server.app.broken_off == broken_off + 1


def test_a_chunked_body_just_over_the_limit_is_refused(server: CountingServer) -> None:
    body = b"10000\r\n" + b"x" * 65_536 + b"\r\n1\r\nx\r\n0\r\n\r\n"
    assert status_of(exchange(server, post("/", body, "Transfer-Encoding: chunked"))) == 413
    body = b"10000\r\n" + b"x" * 65_536 + b"\r\n0\r\n\r\n"
    assert exchange(server, post("/", body, "Transfer-Encoding: chunked")).endswith(b"\r\n\r\n65536")


def chunked(trailers: bytes) -> bytes:
    return post("/", b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n", "Transfer-Encoding: chunked")


def test_trailers_are_discarded(server: CountingServer) -> None:
    trailers = b"Authorization: Bearer x\r\nX-Some: " + b"v" * 10_000 + b"\r\n"
    assert exchange(server, chunked(trailers)).endswith(b"\r\n\r\n5")
    assert [name for name, _ in server.app.headers] == [b"host", b"connection", b"transfer-encoding"]


@pytest.mark.parametrize(
    "trailers",
    [b"X: " + b"v" * 20_000 + b"\r\n", b"X-Some: value\r\n" * 2_000],
    ids=["one trailer", "many trailers"],
)
@pytest.mark.parametrize("size", [1_000, 1_000_000])
def test_trailers_over_the_limit_are_refused(server: CountingServer, trailers: bytes, size: int) -> None:
    """However the bytes are split into pieces."""
    request = chunked(trailers)
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), size):
            send_until_refused(connection, request[at : at + size], 1)
        answer = read_all(connection)
    assert status_of(answer) == 431
    assert problem_of(answer)["code"] == "head_too_large"


@pytest.mark.parametrize("piece", [b"X-Some: " + b"v" * 60 + b"\r\n", b"v" * 1_000], ids=["lines", "one line"])
def test_90_mb_of_trailers_are_neither_read_nor_kept(server: CountingServer, piece: bytes) -> None:
    before = psutil.Process().memory_info().rss
    with server.connect() as connection:
        connection.sendall(chunked(b"")[:-2] + b"X: ")
        send_until_refused(connection, piece * 800, 90_000_000)
        answer = read_all(connection)
    assert not answer or status_of(answer) == 431
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_endless_chunk_extensions_are_refused(server: CountingServer) -> None:
    with server.connect() as connection:
        connection.sendall(post("/", b"5;", "Transfer-Encoding: chunked"))
        send_until_refused(connection, b"x" * 8_192, 1_000_000)
        answer = read_all(connection)
    assert not answer or status_of(answer) == 431


def test_pipelined_requests_behind_a_body_are_not_taken_for_trailers(server: CountingServer) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        following = get("/b", f"X-Long: {'a' * 9_000}", close=False)
        connection.sendall(b"x" + following * 3 + post("/c", b"5\r\n", "Transfer-Encoding: chunked"))
        connection.sendall(b"hello\r\n0\r\n\r\n")
        assert read_all(connection).count(b"HTTP/1.1 200") == 5


@pytest.mark.parametrize("chunked", [False, True])
def test_the_upload_has_its_own_limit(server: CountingServer, chunked: bool) -> None:
    def upload(size: int) -> bytes:
        body = b"x" * size
        if chunked:
            return post("/upload?x=1", b"%x\r\n%b\r\n0\r\n\r\n" % (size, body), "Transfer-Encoding: chunked")
        return post("/upload?x=1", body, f"Content-Length: {size}")

    assert exchange(server, upload(4_000_000)).endswith(b"\r\n\r\n4000000")
    with server.connect() as connection:
        send_until_refused(connection, upload(4_000_001), 1)
        answer = read_all(connection)
    assert not answer or status_of(answer) == 413


def test_a_large_head_that_is_not_http_gets_one_answer(server: CountingServer) -> None:
    answer = exchange(server, b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\nX: " + b"a" * 60_000 + b"\r\n\r\n")
    assert problem_of(answer)["code"] == "malformed_request"
    assert answer.count(b"HTTP/1.1") == 1


def test_http_1_0_needs_no_host(server: CountingServer) -> None:
    assert status_of(exchange(server, b"GET / HTTP/1.0\r\n\r\n")) == 200


def test_a_silent_connection_is_closed(impatient: CountingServer) -> None:
    with impatient.connect() as connection:
        assert read_all(connection) == b""


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\n", post("/", b"", "Content-Length: 10000")])
def test_dribbling_does_not_hold_a_connection(impatient: CountingServer, start: bytes) -> None:
    """Single bytes, sent now and then, do not move the deadline."""
    stop = threading.Event()
    with impatient.connect() as connection:
        connection.sendall(start or b"G")

        def dribble() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    connection.sendall(b"E" if not start else b"x")

        dribbler = threading.Thread(target=dribble)
        dribbler.start()
        answer = connection.recv(65_536)
        stop.set()
        dribbler.join()
    assert status_of(answer) in (400, 408)


def test_an_idle_connection_is_closed_after_its_answer() -> None:
    with CountingServer(LIMITS, keep_alive_s=0) as server, server.connect() as connection:
        connection.sendall(get(close=False))
        assert status_of(read_all(connection)) == 200


def test_connections_over_the_limit_are_refused() -> None:
    limits = replace(LIMITS, max_connections=3)
    with CountingServer(limits) as small, contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(small.connect())
            connection.sendall(get(close=False))
            assert status_of(connection.recv(65_536)) == 200
        with small.connect() as connection:
            assert problem_of(read_all(connection))["code"] == "too_many_connections"


class OthersThan:
    """An AddressLimit that refuses one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def take(self, peer: str | None) -> bool:
        return peer != self._address

    def release(self, peer: str | None) -> None:
        assert peer != self._address

    def note_full(self) -> None:
        """Nothing is counted."""


def test_refused_connections_of_one_address_leave_room_for_others() -> None:
    """A refused connection is kept for a while, so that its client receives the answer."""
    protocol = guarded_protocol(replace(LIMITS, max_connections=8), by_address=OthersThan("127.0.0.2"))
    with EdgeServer(Counting(), protocol) as small, contextlib.ExitStack() as stack:
        for _ in range(20):
            refused = stack.enter_context(
                socket.create_connection(("127.0.0.1", small.port), timeout=20, source_address=("127.0.0.2", 0))
            )
            assert status_of(read_all(refused)) == 429
        with small.connect() as connection:
            connection.sendall(get())
            assert status_of(read_all(connection)) == 200


def test_pipelined_requests_are_answered_in_order_and_a_bad_one_ends_them(server: CountingServer) -> None:
    answer = exchange(server, get("/a", close=False) + get("/c", close=False) + b"\x00\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b"HTTP/1.1") == 2


def test_a_request_that_others_wait_behind_learns_that_its_client_has_left() -> None:
    """A stream of events would go on, and hold its place, without a listener."""
    begun, left = threading.Event(), threading.Event()

    async def stream(_: Any, receive: Any, __: Any) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    with EdgeServer(stream, guarded_protocol(LIMITS)) as server:
        with server.connect() as connection:
            connection.sendall(get("/first", close=False) + get("/second", close=False))
            assert begun.wait(20)
        try:
            assert left.wait(20)
        finally:
            server.server.force_exit = True


def test_endless_pipelining_is_bounded(server: CountingServer) -> None:
    """While the first request is being served, no more than a piece of what follows is taken in."""
    with server.connect() as connection:
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            send_until_refused(connection, get("/slow", close=False) * 1_000, 20_000_000)
        connection.settimeout(20)
        server.loop.call_soon_threadsafe(server.app.release.set)
        answer = read_all(connection)
    server.loop.call_soon_threadsafe(server.app.release.clear)
    assert 1 <= answer.count(b"HTTP/1.1 200") <= 66
    assert answer.count(b"HTTP/1.1 200") == server.app.seen.count("/slow")


def test_an_answer_before_the_body_leaves_no_open_end(impatient: CountingServer) -> None:
    """The body of a request that was answered early is still bounded in time."""
    with impatient.connect() as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nabc")
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1") == 1
    assert status_of(answer) == 200

"""HTTP/1.1 answers as they arrive at a raw socket."""

from __future__ import annotations

import contextlib
import socket


def read_all(connection: socket.socket) -> bytes:
    """Return everything until the server closes; a reset ends it too."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            received += data
    return received


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of one answer; what follows it stays in the socket."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _read(connection, 1)
    head, _, _ = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += _read(connection, length - len(body))
    return head, body


def _read(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if not data:
        raise ConnectionError("the server closed the connection within an answer")
    return data


def status_of(answer: bytes) -> int:
    """Return the status of an answer."""
    return int(answer.split(b" ", 2)[1])

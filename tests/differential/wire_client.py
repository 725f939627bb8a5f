"""A client that sends given bytes and reads answers as they are: no library that would tidy either of them up."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

TIMEOUT_S: Final = 30.0
NO_ANSWER: Final = 0
"""The status of an answer that cannot be read as HTTP."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One response: names of headers in lower case, in the order in which they came."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    reason: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        return next((value for known, value in self.headers if known == name), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one case: the responses, and whether the server closed the connection behind them."""

    answers: tuple[RawAnswer, ...]
    closed: bool


class ConnectionEndedError(Exception):
    """The server closed the connection in the middle of an answer, or before it."""


class WireClient:
    """One connection at a time to one server; opened again where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._received = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._received = b""

    def send(self, pieces: Sequence[bytes]) -> None:
        """Send the pieces, each as one segment where the kernel does so."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            try:
                self._socket.sendall(piece)
            except ConnectionError:
                # The server has refused an earlier piece; its answer may still be read.
                return

    def receive(self, methods: Sequence[bytes]) -> Reply:
        """Read one answer for each method, fewer where the server closes, and all bytes up to a close it announced."""
        answers: list[RawAnswer] = []
        awaited = list(methods)
        try:
            while awaited:
                answer = self._read_answer(head_only=awaited[0] == b"HEAD")
                answers.append(answer)
                if answer.status >= 200:
                    awaited.pop(0)
                if answer.header(b"connection") == b"close":
                    break
        except ConnectionEndedError:
            return self._ended(answers)
        if answers and answers[-1].header(b"connection") == b"close":
            while self._more():
                pass
            return self._ended(answers)
        return Reply(tuple(answers), closed=False)

    def _ended(self, answers: list[RawAnswer]) -> Reply:
        """The reply of a connection that has ended; bytes that are no whole answer are kept as one."""
        if self._received:
            answers.append(RawAnswer(NO_ANSWER, (), self._received))
        self.close()
        return Reply(tuple(answers), closed=True)

    def _more(self) -> bool:
        assert self._socket is not None
        try:
            data = self._socket.recv(65_536)
        except ConnectionError:
            return False
        self._received += data
        return bool(data)

    def _read_answer(self, *, head_only: bool) -> RawAnswer:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if not self._more():
                raise ConnectionEndedError
        first, *lines = self._received[:end].split(b"\r\n")
        headers = []
        for line in lines:
            name, _, value = line.partition(b":")
            headers.append((name.lower(), value.strip()))
        status, reason = first.split(b" ", 2)[1:]
        answer = RawAnswer(int(status), tuple(headers), b"", reason)
        self._received = self._received[end + 4 :]
        if head_only or answer.status < 200:
            return answer
        if answer.header(b"transfer-encoding") is not None:
            body = self._read_chunks()
        else:
            body = self._take(int(answer.header(b"content-length") or 0))
        return replace(answer, body=body)

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._received:
                if not self._more():
                    raise ConnectionEndedError
            size = int(self._take(self._received.index(b"\r\n") + 2), 16)
            body += self._take(size + 2)[:size]
            if size == 0:
                return body

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            if not self._more():
                raise ConnectionEndedError
        taken, self._received = self._received[:size], self._received[size:]
        return taken

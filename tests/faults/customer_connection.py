"""The connection of a customer to an API process: HTTP/1.1 with keep-alive, without any automatic retry."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


class NotSentError(Exception):
    """The connection could not be opened, so the API has not received the request."""


class UnknownOutcomeError(Exception):
    """The request was sent without a complete response, so it may have been carried out."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class CustomerConnection:
    """A connection that is opened when needed and closed after any error."""

    def __init__(self) -> None:
        self._port = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self, port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None,
        *, timeout_s: float = 5.0,
    ) -> Response:  # fmt: skip
        """Send a request and return the response. Raises NotSentError, UnknownOutcomeError."""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        reused = self._writer is not None and port == self._port
        try:
            await self._open(port, timeout_s)
        except (OSError, TimeoutError) as error:
            self.close()
            raise NotSentError(str(error)) from error
        assert self._reader is not None
        assert self._writer is not None
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(head.encode() + b"\r\n" + body)
                return await self._read(self._reader)
        except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            reason = "closed while idle" if reused and isinstance(error, EOFError) else type(error).__name__
            raise UnknownOutcomeError(reason) from error
        except asyncio.CancelledError:
            self.close()
            raise

    async def _open(self, port: int, timeout_s: float) -> None:
        if self._writer is not None and (port != self._port or self._writer.is_closing()):
            self.close()
        if self._writer is None:
            async with asyncio.timeout(timeout_s):
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
            self._port = port

    async def _read(self, reader: asyncio.StreamReader) -> Response:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return Response(status, headers, body)

    def close(self) -> None:
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            with suppress(RuntimeError):
                writer.transport.abort()

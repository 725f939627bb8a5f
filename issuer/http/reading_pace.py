"""The pace at which a client must read a response that holds a slot or memory while it is sent."""

from __future__ import annotations

from time import monotonic
from typing import Final

from starlette.types import Message, Send

MIN_READ_RATE: Final = 16_384
"""Bytes per second on average, after the first `GRACE_S`."""
GRACE_S: Final = 10.0


class SlowReaderError(Exception):
    """The client reads too slowly. The response is aborted."""


class ReadingPace:
    """An ASGI `send`. Only the time counts in which the client is waited for, not that in which there is nothing to
    send.

    Raises SlowReaderError.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waited_s = 0.0
        self._sent = 0

    async def __call__(self, message: Message) -> None:
        started = monotonic()
        await self._send(message)
        self._waited_s += monotonic() - started
        self._sent += len(message.get("body", b""))
        if self._waited_s > GRACE_S + self._sent / MIN_READ_RATE:
            raise SlowReaderError(f"{self._sent} bytes were read in {self._waited_s:.0f} s")

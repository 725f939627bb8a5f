"""The rates at which a client must send a body and read a long response."""

from __future__ import annotations

from typing import Any

import pytest

from issuer.http.edge.limits import EdgeLimits
from issuer.http.reading_pace import ReadingPace, SlowReaderError

GIGABYTE = 1_000_000_000
LIMITS = EdgeLimits(receive_timeout_s=10, body_timeout_s=1_800)


def given_up_after_s(announced_bytes: int, bytes_per_s: float, limit_s: int = 100_000) -> int | None:
    """Return the second in which a body is given up; None: it arrives."""
    for second in range(limit_s):
        received = int(second * bytes_per_s)
        if announced_bytes and received >= announced_bytes:
            return None
        if second > LIMITS.body_due_s(announced_bytes, received):
            return second
    raise AssertionError("neither complete nor given up")


@pytest.mark.parametrize(
    ("announced_bytes", "bytes_per_s", "after_s"),
    [
        # 1 GB at 18 kB/s would take 15 hours.
        (GIGABYTE, 18_000, 11),
        (GIGABYTE, 400_000, 36),
        (GIGABYTE, 560_000, None),
        (20_000_000, 18_000, None),
        (64_000, 1_000, 11),
        # Chunked: its length is unknown until it ends.
        (0, 1_000_000, 1_811),
        (0, 10_000, 26),
    ],
)
def test_a_body_that_cannot_arrive_in_time_is_given_up(
    announced_bytes: int, bytes_per_s: float, after_s: int | None
) -> None:
    assert given_up_after_s(announced_bytes, bytes_per_s) == after_s


class SlowClient:
    """Reads each piece in `seconds`, by the clock that ReadingPace sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now = 0.0
        self._seconds = seconds
        monkeypatch.setattr("issuer.http.reading_pace.monotonic", lambda: self.now)

    async def send(self, _: Any) -> None:
        self.now += self._seconds


async def pieces_read(client: SlowClient, *, between_s: float = 0.0, most: int = 1_000) -> int:
    pace = ReadingPace(client.send)
    for number in range(most):
        try:
            await pace({"type": "http.response.body", "body": b"x" * 16_384, "more_body": True})
        except SlowReaderError:
            return number
        client.now += between_s
    return most


async def test_a_reader_that_is_too_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await pieces_read(SlowClient(monkeypatch, 0.9)) == 1_000
    assert await pieces_read(SlowClient(monkeypatch, 3)) == 5
    # Only the time counts in which the client is waited for.
    assert await pieces_read(SlowClient(monkeypatch, 0.9), between_s=60) == 1_000

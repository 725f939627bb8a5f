"""Rate limits as they are written: `100/s`, `6000/m`, `100/s,burst=500`, `off`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

OFF: Final = "off"
MAX_COUNT: Final = 1_000_000
_PERIODS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORM: Final = re.compile(r"([0-9]{1,7})/([smhd])(?:,burst=([0-9]{1,7}))?", re.ASCII)


class InvalidRateLimitError(ValueError):
    """The text is not a rate limit. The message shows the form of one."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: `count` tokens flow in evenly every `period_s` seconds; it holds at most `burst` of them."""

    count: int
    period_s: int
    burst: int

    @property
    def interval_s(self) -> float:
        """The time between two tokens."""
        return self.period_s / self.count


@lru_cache(maxsize=1_024)
def parse_limit(text: str) -> RateLimit | None:
    """Parse a rate limit; None for `off`. The burst defaults to the count of a period. Raises InvalidRateLimitError."""
    if text == OFF:
        return None
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidRateLimitError("must be like 100/s, 6000/m, 100/s,burst=500 (s, m, h or d), or off")
    count = int(found[1])
    burst = count if found[3] is None else int(found[3])
    if not 1 <= count <= MAX_COUNT or not 1 <= burst <= MAX_COUNT:
        raise InvalidRateLimitError(f"count and burst of a limit must be from 1 to {MAX_COUNT:,}")
    return RateLimit(count, _PERIODS_S[found[2]], burst)

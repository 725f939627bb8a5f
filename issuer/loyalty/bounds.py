"""Bounds of loyalty: the largest figure, and the instant that stands for never."""

from __future__ import annotations

from typing import Final

from issuer.instants import LAST

MAX_POINTS: Final = 10**12
"""Bound of every figure of an account, an order and an entry."""
NEVER: Final = LAST
"""The expiry of points that never expire. It is shown as null."""
MAX_SOURCE: Final = 64
MAX_ORDER_ID: Final = 128
MAX_REASON: Final = 200
"""Characters of an order's source and id, and of the reason of an entry."""
MAX_HOLDS: Final = 100
"""Open holds of one account: each is read by every operation."""

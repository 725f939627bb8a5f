"""What an engine has heard from Redis, as evidence for a recovery (see `issuer.recovery.witness`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Testimony:
    """The highest clocks (ms, by partition) among the answers that came under `epoch`. `attached`: more may come."""

    epoch: int
    run_id: str
    attached: bool
    clocks_ms: Mapping[int, int]

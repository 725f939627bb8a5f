"""What an engine has heard from Redis, as evidence for a recovery (see `issuer.registration.registrar`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Testimony:
    """The highest serials and beats (by partition) that were seen under `epoch`. `attached`: more may come."""

    epoch: int
    run_id: str
    attached: bool
    serials: Mapping[str, int]
    beats: Mapping[str, int]

"""The stores of one process, opened and closed together: Postgres, the blessed pair, Redis."""

from __future__ import annotations

from dataclasses import dataclass

from issuer.settings import Settings
from issuer.storage.incarnation import Incarnations
from issuer.storage.postgres import Pool
from issuer.storage.redis_link import Redis


@dataclass(frozen=True, slots=True)
class Stores:
    """What a command, the worker or the API needs."""

    settings: Settings
    postgres: Pool
    incarnations: Incarnations
    redis: Redis

"""The stores of one process: Postgres, the blessed pair, Redis. `issuer.recovery.opening` opens and closes them."""

from __future__ import annotations

from dataclasses import dataclass

from issuer.ids import Identity, id_of
from issuer.settings import Settings
from issuer.storage.incarnation import Incarnations
from issuer.storage.postgres import Pool
from issuer.storage.redis_link import Redis


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything that a command, the worker or the API needs to reach the data."""

    settings: Settings
    postgres: Pool
    incarnations: Incarnations
    redis: Redis

    def identity(self, text: str) -> Identity:
        """Return the id that a caller gave. Raises InvalidIdError, UnknownInstallationError."""
        return id_of(text, self.incarnations.installation_id)

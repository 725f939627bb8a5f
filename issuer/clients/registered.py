"""The registered clients that requests name by a text, in memory, so that refusals can say that a client is unknown.

Only refusals ask. A client stays registered, so one that was found is kept and never read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

from issuer.storage.look_ups import LookUps
from issuer.storage.postgres import Pool, unavailable_translated


class RegisteredClients:
    """Clients by the 16 bytes of their ids. A client that was not found is looked up again a second later."""

    MAX_CLIENTS: Final = 10_000

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._known: dict[bytes, bool] = {}
        self._look_ups: LookUps[bytes, bool] = LookUps(self._look_up, "clients")

    async def aclose(self) -> None:
        """Cancel all look-ups; their callbacks are not called."""
        await self._look_ups.aclose()

    def knows(self, client: bytes) -> bool:
        """Whether the client is known to be registered."""
        return client in self._known

    def start_look_up(self, client: bytes, then: Callable[[bool | Exception | None], None]) -> None:
        """Look up a client that this does not know: `then` gets True; None: it is not registered."""
        self._look_ups.start(client, then)

    async def _look_up(self, client: bytes) -> bool | None:
        async with unavailable_translated():
            found = await self._postgres.fetchval("SELECT true FROM clients WHERE id = $1", UUID(bytes=client))
        if found is None:
            return None
        if len(self._known) >= self.MAX_CLIENTS:
            del self._known[next(iter(self._known))]
        self._known[client] = True
        return True

"""The keeper of a host's receipt journal: announces it, deletes recorded segments, replays it after a recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from issuer.journal.segments import Journal, delete_recorded, host_name
from issuer.recovery.replay import replay_host
from issuer.settings import Settings
from issuer.storage.incarnation import Incarnations
from issuer.storage.lineage import IncidentError
from issuer.storage.postgres import PostgresUnavailableError, own_connection, unavailable_translated

log = structlog.get_logger()

KEEP_EVERY_S: Final = 5.0

_ANNOUNCE: Final = """
INSERT INTO journals (host, directory, seen_at) VALUES ($1, $2, now())
ON CONFLICT (host) DO UPDATE SET directory = excluded.directory, seen_at = now()"""


class JournalKeeper:
    """One per API process. Several on one host do no harm: every step can be repeated."""

    def __init__(self, settings: Settings, incarnations: Incarnations, journal: Journal, directory: Path) -> None:
        self._settings = settings
        self._incarnations = incarnations
        self._journal = journal
        self._directory = directory
        self._replayed_epoch = 0

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Keep the journal in the background until the block ends, then close it."""
        task = asyncio.create_task(self._keep(), name="journal-keeper")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._journal.close()

    async def _keep(self) -> None:
        while True:
            try:
                await self._keep_once()
            except (PostgresUnavailableError, IncidentError, OSError) as error:
                log.debug("receipt journal not maintained; retrying", reason=str(error))
            except Exception:
                log.exception("receipt journal not maintained; retrying")
            await asyncio.sleep(KEEP_EVERY_S)

    async def _keep_once(self) -> None:
        self._journal.roll()
        async with unavailable_translated(), own_connection(self._settings, timeout_s=60.0) as connection:
            await connection.execute(_ANNOUNCE, host_name(), str(self._directory))
            blessed = self._incarnations.blessed
            if blessed is not None and blessed.epoch != self._replayed_epoch:
                recorded = await replay_host(connection, self._directory, blessed.epoch)
                self._replayed_epoch = blessed.epoch
                if recorded.inserted:
                    log.warning(
                        "recorded redemptions that Redis had lost, from the receipt journal",
                        redemptions=recorded.inserted,
                    )
            # After the replay: what it has just recorded need not be kept.
            await delete_recorded(connection, self._directory)

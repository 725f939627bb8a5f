"""Which Redis data set may hand out codes: the blessed pair (epoch, run_id), kept in Postgres, remembered here.

A process trusts a connection only if the server's `run_id` is the blessed one. It asks Postgres when it meets a
`run_id` that it does not know, and once a second whether the pair has changed; in between it needs no Postgres.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from issuer.contract.events import EVENT_FORMAT
from issuer.contract.keys import KEY_FORMAT
from issuer.settings import Settings
from issuer.storage.migrate import SchemaError, check_schema
from issuer.storage.postgres import Pool, PostgresUnavailableError, close_pool, connect_pool, unavailable_translated

log = structlog.get_logger()


class InstallationError(Exception):
    """The data belong to another version or layout than this program's. It must not touch them."""


@dataclass(frozen=True, slots=True)
class Blessed:
    """The server that may hand out codes, and the epoch that its data set carries."""

    epoch: int
    run_id: str


async def refuse_foreign_data(settings: Settings) -> None:
    """Raises InstallationError if the data are not for this program. A Postgres that is away is no reason to refuse."""
    postgres = await connect_pool(settings, size=1)
    try:
        with suppress(PostgresUnavailableError):
            await Incarnations(settings, postgres).start()
    finally:
        await close_pool(postgres)


_CREATE_INSTALLATION: Final = """
INSERT INTO installation (partitions, key_format, event_format, max_backlog) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING"""


class Incarnations:
    """What this process knows of the blessed pair and of the installation.

    `wake` is set when a connection has met a server that is not the blessed one: somebody should look whether it
    can be recovered (see `issuer.recovery.guardian.Guardian`).
    """

    def __init__(self, settings: Settings, postgres: Pool) -> None:
        self._settings = settings
        self._postgres = postgres
        self._listeners: list[Callable[[], None]] = []
        self.wake = asyncio.Event()
        self.blessed: Blessed | None = None
        self.partitions = settings.partitions
        self.max_backlog = settings.max_backlog

    async def start(self) -> None:
        """Makes the installation row at the very first start, and checks that this program fits its data.

        Raises InstallationError if it does not, PostgresUnavailableError if Postgres cannot be asked.
        """
        try:
            await check_schema(self._postgres)
        except SchemaError as error:
            raise InstallationError(str(error)) from error
        async with unavailable_translated():
            await self._postgres.execute(
                _CREATE_INSTALLATION,
                self._settings.partitions, KEY_FORMAT, EVENT_FORMAT, self._settings.max_backlog,
            )  # fmt: skip
            row = await self._postgres.fetchrow("SELECT * FROM installation")
        assert row is not None
        problems = []
        if row["partitions"] != self._settings.partitions:
            problems.append(
                f"ISSUER_PARTITIONS is {self._settings.partitions}, but the data were made with {row['partitions']};"
                " the number of partitions cannot change"
            )
        if row["key_format"] != KEY_FORMAT:
            problems.append(f"key format {row['key_format']} of the data is not {KEY_FORMAT}, the one of this version")
        if row["event_format"] > EVENT_FORMAT:
            problems.append(f"event format {row['event_format']} of the data is newer than {EVENT_FORMAT}")
        if problems:
            raise InstallationError("; ".join(problems))
        self.max_backlog = row["max_backlog"]
        self._adopt(row["epoch"], row["run_id"])

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` is called when the pair changes: connections made before must be closed."""
        self._listeners.append(listener)

    async def refresh(self) -> Blessed | None:
        """Asks Postgres for the pair. Raises PostgresUnavailableError; what was known stays known then."""
        try:
            async with unavailable_translated():
                row = await self._postgres.fetchrow("SELECT epoch, run_id, max_backlog FROM installation")
        except asyncpg.PostgresError as error:
            # No such table, password or database: whatever it is, the pair cannot be known now. It may pass.
            raise PostgresUnavailableError(f"{type(error).__name__}: {error}") from error
        if row is None:
            return None
        self.max_backlog = row["max_backlog"]
        self._adopt(row["epoch"], row["run_id"])
        return self.blessed

    def _adopt(self, epoch: int, run_id: str | None) -> None:
        pair = Blessed(epoch, run_id) if run_id else None
        if pair == self.blessed:
            return
        log.info("incarnation changed", epoch=epoch, blessed=pair is not None)
        self.blessed = pair
        for listener in self._listeners:
            listener()

    async def admit(self, run_id: str) -> Blessed | None:
        """The pair, if `run_id` is the blessed server's; None (and `wake` is set) if it is not.

        Raises PostgresUnavailableError when the server is not the known one and Postgres cannot be asked.
        """
        if self.blessed is not None and self.blessed.run_id == run_id:
            return self.blessed
        pair = await self.refresh()
        if pair is not None and pair.run_id == run_id:
            return pair
        self.wake.set()
        return None

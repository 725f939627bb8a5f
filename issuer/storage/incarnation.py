"""The blessed pair (epoch, run_id): which Redis data set may issue codes. Postgres stores it, each process caches it.

A process trusts a connection only if the server's `run_id` is the blessed one. It reads the pair from Postgres when a
connection shows another `run_id`, and once a second in the background; in between it needs no Postgres.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from issuer.contract.events import EVENT_FORMAT
from issuer.contract.keys import KEY_FORMAT
from issuer.settings import Settings
from issuer.storage.database_identity import (
    STORED_SQL,
    CopiedDatabaseError,
    identity_sql,
    read_identity,
    refuse_copy,
    refuse_other,
)
from issuer.storage.floors import Floors, read_floors
from issuer.storage.lineage import UNKNOWN_AMONG, Lineage, report_unknown
from issuer.storage.migrate import SchemaError, check_schema
from issuer.storage.pooling import PoolingError, refuse_pooling
from issuer.storage.postgres import (
    Pool,
    PostgresUnavailableError,
    close_pool,
    connect_pool,
    stateless,
    unavailable_translated,
)
from issuer.storage.server_watch import ClockReading, ServerWatch

log = structlog.get_logger()


class UnknownInstallationError(PostgresUnavailableError):
    """The installation row has not been read yet, because Postgres was unavailable since the start."""


class InstallationError(Exception):
    """The data have another format than this version knows, so it must not change them."""


@dataclass(frozen=True, slots=True)
class Blessed:
    """The server that may issue codes, and the epoch that its data set carries."""

    epoch: int
    run_id: str


async def refuse_foreign_data(settings: Settings) -> None:
    """Raise InstallationError if this version does not fit the data. Accept when Postgres is unavailable."""
    postgres = await connect_pool(settings, size=1)
    try:
        with suppress(PostgresUnavailableError):
            await Incarnations(settings, postgres).start()
    finally:
        await close_pool(postgres)


async def read_installation_id(postgres: Pool) -> UUID:
    """Return the id of the installation, for a command that needs nothing else of it."""
    async with unavailable_translated():
        found = await postgres.fetchval("SELECT id FROM installation")
    if found is None:
        raise InstallationError("the installation was never started")
    return UUID(bytes=found.bytes)


_CREATE_INSTALLATION: Final = """
INSERT INTO installation (partitions, key_format, event_format, max_backlog, database) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING"""

_ADOPT: Final = "UPDATE installation SET database = $1 WHERE database IS NULL"

_REFRESH: Final = f"""
SELECT id, epoch, run_id, max_backlog, (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS clock_ms,
  incident, {UNKNOWN_AMONG.format(tokens="$1")} AS unknown,
  {STORED_SQL} AS database, {{identity}} AS identity
FROM installation"""


class Incarnations:
    """This process' copy of the blessed pair and of the installation's settings, and what it saw of that pair's data.

    `epoch`: the highest that this process knows of; it is that of `blessed`, or is fenced and has no server yet.
    `incident`: what only an operator can resolve, in words; None: nothing. `lineage`: the tokens that this process met.

    `wake` is set when a connection has met a server that is not the blessed one. It wakes the guardian
    (`issuer.recovery.guardian.Guardian`), which recovers the server if it can. `watch`: why even the blessed server
    must not issue at present.
    """

    def __init__(self, settings: Settings, postgres: Pool) -> None:
        self._settings = settings
        self._postgres = postgres
        self._listeners: list[Callable[[], None]] = []
        self.wake = asyncio.Event()
        self.watch = ServerWatch()
        self.blessed: Blessed | None = None
        self.epoch = 0
        self.partitions = settings.partitions
        self.floors = Floors(0, settings.partitions)
        self.max_backlog = settings.max_backlog
        self.incident: str | None = None
        self.lineage = Lineage()
        self._restored = False
        self._refresh_sql = ""
        self._refreshed_at = float("-inf")

    @cached_property
    def installation_id(self) -> UUID:
        """The id of the installation, an attribute once it was read. Raises UnknownInstallationError before."""
        raise UnknownInstallationError("the id of the installation has not been read yet")

    async def start(self, *, restored: bool = False) -> None:
        """Create the installation row at the very first start; check that this version fits the data.

        `restored`: an operator says that a copy of the database takes its place. Raises InstallationError if it does
        not fit, PostgresUnavailableError if that cannot be determined.
        """
        try:
            await refuse_pooling(self._settings, self._postgres)
            await check_schema(self._postgres)
        except (PoolingError, SchemaError) as error:
            raise InstallationError(str(error)) from error
        async with unavailable_translated():
            database = await read_identity(self._postgres)
            await self._postgres.execute(
                _CREATE_INSTALLATION,
                self._settings.partitions, KEY_FORMAT, EVENT_FORMAT, self._settings.max_backlog, database,
            )  # fmt: skip
            await self._postgres.execute(_ADOPT, database)
            row = await self._postgres.fetchrow("SELECT * FROM installation")
        assert row is not None
        problems = []
        self._restored = restored
        if not restored:
            try:
                await refuse_copy(self._postgres)
            except CopiedDatabaseError as error:
                problems.append(str(error))
        if row["partitions"] != self._settings.partitions:
            problems.append(
                f"ISSUER_PARTITIONS is {self._settings.partitions}, but the installation has {row['partitions']};"
                " the number of partitions cannot change"
            )
        if row["key_format"] != KEY_FORMAT:
            problems.append(f"the data have key format {row['key_format']}, this version needs {KEY_FORMAT}")
        if row["event_format"] > EVENT_FORMAT:
            problems.append(f"the data have event format {row['event_format']}, this version knows {EVENT_FORMAT}")
        if problems:
            raise InstallationError("; ".join(problems))
        # Again, with the clock.
        await self.refresh()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the pair changes: connections that were opened before must be closed."""
        self._listeners.append(listener)

    def is_fresh(self, age_s: float) -> bool:
        """Whether the pair was read in the last `age_s`: a task need not repeat what another one has done."""
        return time.monotonic() - self._refreshed_at < age_s

    async def refresh(self) -> Blessed | None:
        """Read the pair from Postgres. Raises PostgresUnavailableError; the cached pair stays valid then.

        Begins an incident if Postgres does not know a token that this process met.
        """
        tokens = self.lineage.tokens
        try:
            async with unavailable_translated(), stateless(self._postgres) as connection:
                if not self._refresh_sql:
                    self._refresh_sql = _REFRESH.format(identity=await identity_sql(connection))
                began_s = time.monotonic()
                row = await connection.fetchrow(self._refresh_sql, tokens)
                ended_s = time.monotonic()
                if row is not None and not self._restored:
                    refuse_other(row["database"], row["identity"])
                if row is not None and row["unknown"]:
                    host = self._settings.host_name or socket.gethostname()
                    await report_unknown(connection, row["unknown"], f"a process on {host}")
                    row = await connection.fetchrow(self._refresh_sql, [])
            if row is None:
                return None
            self._refreshed_at = began_s
            self.watch.note_postgres(ClockReading.of(row["clock_ms"], began_s, ended_s))
            self.lineage.confirm(tokens)
            async with unavailable_translated():
                await self._read(row)
        except CopiedDatabaseError as error:
            # For this process alone: the original has nothing to decide.
            self._note_incident(str(error))
            raise
        except asyncpg.PostgresError as error:
            # A missing table, a refused password, a standby: the pair is unknown for now, and the cause may pass. What
            # this role may read can have changed as well.
            self._refresh_sql = ""
            raise PostgresUnavailableError(f"{type(error).__name__}: {error}") from error
        return self.blessed

    async def _read(self, row: asyncpg.Record) -> None:
        self.installation_id = UUID(bytes=row["id"].bytes)
        self.max_backlog = row["max_backlog"]
        self._note_incident(row["incident"])
        epoch, run_id = row["epoch"], row["run_id"]
        if run_id is not None and epoch != self.floors.epoch:
            # Before any call of the epoch: what other processes have seen of it counts for this one.
            self.floors = await read_floors(self._postgres, epoch, self.partitions)
        self._adopt(epoch, run_id)

    def floors_of(self, epoch: int) -> Floors:
        """Return the floors of an epoch: the present one, or one that was replaced meanwhile."""
        return self.floors if self.floors.epoch == epoch else Floors(epoch, self.partitions)

    def _note_incident(self, incident: str | None) -> None:
        if incident != self.incident:
            self.incident = incident
            log.warning("incident", incident=incident or "resolved")

    def _adopt(self, epoch: int, run_id: str | None) -> None:
        self.watch.epoch = epoch
        self.epoch = epoch
        pair = Blessed(epoch, run_id) if run_id else None
        if pair == self.blessed:
            return
        log.info("blessed pair changed", epoch=epoch, blessed=pair is not None)
        self.blessed = pair
        for listener in self._listeners:
            listener()

    async def admit(self, run_id: str) -> Blessed | None:
        """Return the pair if `run_id` is the blessed server's. Otherwise set `wake` and return None.

        Raises PostgresUnavailableError when the cached pair has another `run_id` and Postgres is unavailable.
        """
        if self.blessed is not None and self.blessed.run_id == run_id:
            return self.blessed
        pair = await self.refresh()
        if pair is not None and pair.run_id == run_id:
            return pair
        self.wake.set()
        return None

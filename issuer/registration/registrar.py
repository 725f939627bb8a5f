"""The registrar: the task of a process that registers it for each epoch, and settles what it leaves.

Order, which recoveries rely on:

1. register, in a transaction that no fence overtakes, also while a recovery is in progress: for the epoch that it has
   begun; the journal is on the disk before;
2. wait for two heartbeats, in which every other process finds out whether Postgres has gone back in time;
3. let the engine call scripts once a server is blessed in that epoch;
4. when Postgres knows a newer epoch: close the engine's connection and answer 503 to everything unanswered; replay the
   journal; settle the registration. The older epoch is never used again.

A process whose journal fails registers again, as one without a journal. The first registration is settled at its end:
everything that was answered under it has a receipt. That without a journal stays open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from issuer.engine.engine import Engine
from issuer.journal.journal import Journal, JournalError, keep_token, read_token
from issuer.journal.segments import closed_segments
from issuer.registration.registrations import RegisteredProcess, leave, register, report, report_alive, settle
from issuer.registration.replay import REPLAY_TIMEOUT_S, commit_token, delete_recorded, replay, settle_dead
from issuer.settings import Settings
from issuer.storage.ending import end_tasks
from issuer.storage.incarnation import Incarnations
from issuer.storage.lineage import IncidentError, refuse_unknown
from issuer.storage.postgres import (
    Pool,
    PoolConnection,
    PostgresUnavailableError,
    own_connection,
    unavailable_translated,
)

log = structlog.get_logger()

HEARTBEATS_TO_WAIT: Final = 2
KEEP_EVERY_S: Final = 1.0
RENEW_EVERY_S: Final = 12 * 3600.0
LEAVE_LIMIT_S: Final = 3.0
START_LIMIT_S: Final = 15.0


class Registrar:
    """One per process with an engine. `trouble`: why the process may not call, for an operator; empty while it may."""

    def __init__(self, settings: Settings, postgres: Pool, incarnations: Incarnations, engine: Engine) -> None:
        self._settings = settings
        self._postgres = postgres
        self._incarnations = incarnations
        self._engine = engine
        self._heartbeat_s = settings.heartbeat_ms / 1000
        self._directory = settings.journals
        self._journal: Journal | None = None
        self._failed: list[Journal] = []
        self._process = RegisteredProcess()
        self._epoch = self._highest = 0
        self._enter_at: float | None = None
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._replaying = asyncio.Lock()
        self._refused: set[Path] = set()
        self._renew_at = asyncio.get_running_loop().time() + RENEW_EVERY_S
        self.trouble = "not registered yet"
        incarnations.on_change(self._wake.set)

    @asynccontextmanager
    async def registered(self) -> AsyncIterator[None]:
        """Register for each epoch in the background until the block ends, and settle then. The engine is started."""
        tasks = [asyncio.create_task(self._run(), name="registrar")]
        if self._directory is not None:
            tasks.append(asyncio.create_task(self._keep(), name="journal-keeper"))
        try:
            yield
        finally:
            await end_tasks(*tasks)
            await self._end()

    async def wait_for_start(self) -> None:
        """Wait until this process can call for the first time, or cannot for a reason that may last.

        Its connections wait in the listening socket meanwhile: a restart delays requests and refuses none.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(START_LIMIT_S):
                await self._tried.wait()
                # Registered, and the engine connects now.
                while not self.trouble and not self._engine.is_ready:
                    await asyncio.sleep(0.01)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                async with unavailable_translated():
                    await self._step()
            except PostgresUnavailableError as error:
                self._complain(f"Postgres is unavailable: {error}" if self._enter_at or not self._epoch else "")
            except IncidentError as error:
                self._complain(str(error))
            except Exception as error:
                self._complain(f"{type(error).__name__}: {error}")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()

    def _pause_s(self) -> float:
        if self._enter_at is None:
            return self._heartbeat_s
        left_s = self._enter_at - asyncio.get_running_loop().time()
        # Due already: no server is blessed yet, or an incident keeps this process from calling.
        return min(self._heartbeat_s, left_s) if left_s > 0 else self._heartbeat_s

    def _complain(self, trouble: str) -> None:
        self._tried.set()
        if trouble and trouble != self.trouble:
            log.warning("this process cannot register and issues nothing", reason=trouble)
        self.trouble = trouble

    async def _step(self) -> None:
        # The guardian reads the pair as often. While this process waits, what others object to must be read here.
        if self._enter_at is not None or not self._incarnations.is_fresh(self._heartbeat_s):
            await self._incarnations.refresh()
        if self._is_open and self._incarnations.epoch > self._highest:
            self._complain(f"epoch {self._highest} has ended; no Redis server is blessed yet")
            await self._settle()
        blessed, epoch = self._incarnations.blessed, self._incarnations.epoch
        if blessed is None:
            self._tried.set()
            if epoch == 0:
                return
        if epoch < self._highest:
            self._complain(f"Postgres went back to epoch {epoch}, and this process knows {self._highest}")
            return
        if (error := self._engine.journal_error) is not None:
            self._give_up_journal(error)
        # During a recovery, too: the heartbeats behind it are over then when the server is blessed.
        if self._epoch != epoch and not await self._register(epoch):
            self._wake.set()
            return
        if blessed is None:
            self.trouble = f"no Redis server is blessed in epoch {epoch} yet"
        is_due = self._enter_at is not None and asyncio.get_running_loop().time() >= self._enter_at
        if is_due and blessed is not None:
            if self._incarnations.incident:
                # Another process has objected meanwhile: this one might be the only one that Postgres knows of.
                raise IncidentError(self._incarnations.incident)
            self._enter_at = None
            self._engine.enter(self._epoch, self._journal)
            self.trouble = ""
            self._tried.set()
        floors = self._incarnations.floors_of(self._epoch)
        await report(self._postgres, self._process, self._epoch, *floors.to_json())

    @property
    def _is_open(self) -> bool:
        """Whether a registration of the highest epoch, or one before it with a journal that failed, is not settled."""
        return self._epoch != 0 or bool(self._failed)

    async def _register(self, epoch: int) -> bool:
        if self._journal is None and self._directory is not None and not self._failed:
            await asyncio.to_thread(self._create_journal, self._directory)
        async with self._postgres.acquire() as connection:
            token = await register(connection, self._process, epoch, self._tokens())
        if token is None:
            return False
        self._incarnations.lineage.last, self._highest = token, epoch
        if self._journal is not None:
            try:
                await asyncio.to_thread(self._journal.note_token, token)
            except JournalError as error:
                self._give_up_journal(error)
                return False
        self._epoch = epoch
        self._enter_at = asyncio.get_running_loop().time() + HEARTBEATS_TO_WAIT * self._heartbeat_s
        self.trouble = "registered a moment ago; waiting for two heartbeats of the other processes"
        return True

    def _tokens(self) -> list[UUID]:
        """Return the tokens that this process and the directory of its journals keep: Postgres must know them."""
        tokens = self._incarnations.lineage.tokens
        if self._directory is not None and (text := read_token(self._directory, self._incarnations.installation_id)):
            tokens.append(UUID(hex=text))
        return tokens

    def _create_journal(self, directory: Path) -> None:
        try:
            self._journal = Journal(directory, self._incarnations.installation_id, max_bytes=self._max_bytes)
        except JournalError as error:
            self._alarm(error)
            self._process = RegisteredProcess()
        else:
            self._process = RegisteredProcess(self._journal.id, has_journal=True)

    @property
    def _max_bytes(self) -> int:
        return self._settings.journal_max_mb * 1024 * 1024

    def _give_up_journal(self, error: JournalError) -> None:
        """Register again, as a process without a journal: its failed one would lack what is answered from here on."""
        self._alarm(error)
        self._engine.forget_journal()
        if self._journal is not None:
            self._failed.append(self._journal)
        self._journal, self._process, self._epoch = None, RegisteredProcess(), 0

    def _alarm(self, error: JournalError) -> None:
        log.error(
            "the receipt journal cannot be written; free or repair the disk: a loss of Redis would quarantine codes",
            error=str(error),
        )

    async def _settle(self) -> None:
        """Leave the epoch, bring everything that was answered into the ledger, and settle."""
        testimony = await self._engine.leave()
        seen = testimony.serials if testimony.epoch == self._epoch else {}
        reporting = asyncio.create_task(self._report_meanwhile(), name="report-meanwhile")
        try:
            await self._record_and_settle(seen)
        finally:
            await end_tasks(reporting)
        if self._epoch and not self._process.has_journal:
            if self._enter_at is None:
                # What it saw counts, but a process without a journal cannot state that all of it is recorded.
                await leave(self._postgres, self._process, self._epoch, seen)
            else:
                # It has called no script in this epoch.
                async with self._postgres.acquire() as connection:
                    token = await settle(connection, self._process.journal_id, self._epoch, {})
                self._incarnations.lineage.last = token
            self._process = RegisteredProcess()
        self._epoch, self._enter_at = 0, None

    async def _report_meanwhile(self) -> None:
        """Show that this process lives: a recovery waits for it, however long its journal is."""
        while True:
            with suppress(PostgresUnavailableError):
                async with unavailable_translated():
                    await report_alive(self._postgres, self._process, self._epoch)
            await asyncio.sleep(self._heartbeat_s)

    async def _record_and_settle(self, seen: Mapping[str, int]) -> None:
        async with self._replaying:
            # The dead first: a recovery waits for this process, and not for them.
            await self._settle_dead(yields=False)
            if own := self.journals():
                async with own_connection(self._settings, timeout_s=REPLAY_TIMEOUT_S) as connection:
                    await refuse_unknown(connection, self._tokens(), f"a process on {self._process.host}")
                    for journal in own:
                        recorded = await replay(connection, journal.directory)
                        if recorded.rejected:
                            log.error("the ledger refuses receipts of this process", journal=str(journal.directory))
                            self._refused.add(journal.directory)
                            continue
                        token = await settle(connection, journal.id, self._highest, seen)
                        self._incarnations.lineage.last = token
                        directory, installation = journal.directory.parent, self._incarnations.installation_id
                        if not await asyncio.to_thread(keep_token, directory, installation, token):
                            self._refused.add(journal.directory)
        for journal in self._failed:
            self._put_away(journal)
        self._failed = []

    def _put_away(self, journal: Journal) -> None:
        if journal.directory in self._refused:
            journal.close()
        else:
            journal.remove()

    def journals(self) -> list[Journal]:
        """Return the journals with receipts that may not be settled: that of this process, and those that failed."""
        return [*self._failed, *([] if self._journal is None else [self._journal])]

    async def _keep(self) -> None:
        """Keep the journals of this host small: delete what is recorded, and settle what dead processes left."""
        while True:
            try:
                async with unavailable_translated(), self._replaying:
                    if (journal := self._journal) is not None:
                        await self._keep_own(journal)
                    await self._settle_dead(yields=True)
            except (PostgresUnavailableError, IncidentError, JournalError, OSError) as error:
                log.debug("receipt journals not maintained; retrying", reason=str(error))
            except Exception:
                log.exception("receipt journals not maintained; retrying")
            await asyncio.sleep(KEEP_EVERY_S)

    async def _settle_dead(self, *, yields: bool) -> None:
        known = self._incarnations
        await settle_dead(self._settings, known.installation_id, self._refused, epoch=known.epoch, yields=yields)

    async def _keep_own(self, journal: Journal) -> None:
        journal.roll()
        must_renew = asyncio.get_running_loop().time() >= self._renew_at
        # An idle process asks Postgres nothing.
        if must_renew or closed_segments(journal.directory):
            async with self._postgres.acquire() as connection:
                await delete_recorded(connection, journal, self._incarnations.lineage)
                if must_renew:
                    await self._renew_tokens(connection, journal)

    async def _renew_tokens(self, connection: PoolConnection, journal: Journal) -> None:
        """Replace the tokens of the journal and its directory before Postgres forgets them."""
        token = await commit_token(connection)
        await asyncio.to_thread(journal.note_token, token)
        await asyncio.to_thread(keep_token, journal.directory.parent, self._incarnations.installation_id, token)
        self._renew_at = asyncio.get_running_loop().time() + RENEW_EVERY_S

    async def _end(self) -> None:
        """Leave for good. What cannot be recorded in a moment is left to other processes of this host."""
        try:
            async with asyncio.timeout(LEAVE_LIMIT_S), unavailable_translated():
                if self._is_open:
                    await self._settle()
                for journal in self.journals():
                    self._put_away(journal)
        except (PostgresUnavailableError, IncidentError, TimeoutError, OSError) as error:
            log.warning("the receipt journal is left to the next process of this host", reason=str(error))
        finally:
            for journal in self.journals():
                journal.close()

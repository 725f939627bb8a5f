"""Import the batches, codes and usages of Ango: a batch is one transaction, so a killed run is continued by the next.

A repeated run adds what is new in the source. It changes nothing that is here already: not the rules of a batch, and
no redemption.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.batches.batch import BatchEndedError, NewBatch
from issuer.batches.revisions import push_batch
from issuer.batches.store import create_batch_in
from issuer.clients.registry import register_clients, unregistered
from issuer.ids import parse_uuid
from issuer.importing.ango_rows import AngoRows
from issuer.importing.ango_source import AngoSource, SourceBatch, open_ango
from issuer.importing.ango_values import BadRulesError, name_of, rules_of
from issuer.importing.report import ImportRefusedError, ImportReport
from issuer.importing.taken_back import take_back
from issuer.importing.used_codes import CREATE_ROWS, STAGE, UsedCodes, record_used
from issuer.loading.file_clients import TooManyClientsError
from issuer.loading.preload import TRANSIENT_ERRORS, load_pool_of_batch
from issuer.loading.progress import Phase, Progress, ignore_progress
from issuer.loading.staging import Numbering, insert_codes, number_rows, staging_table
from issuer.storage.postgres import FILE_TIMEOUT_S, AnyConnection, own_connection, unavailable_translated
from issuer.storage.stores import Stores

SOURCE: Final = "ango"
_SHOWN: Final = 1_000
"""Rows between two reports of the progress."""

_TAKEN: Final = """
SELECT id FROM batches WHERE id = ANY ($1) AND NOT EXISTS (
  SELECT FROM imported_batches i WHERE i.batch_id = batches.id AND i.source = $2) ORDER BY id"""
_STATE: Final = "SELECT ended_at IS NOT NULL FROM batches WHERE id = $1"
_MARK: Final = "INSERT INTO imported_batches (batch_id, source) VALUES ($1, $2)"
_END: Final = "UPDATE batches SET ended_at = now(), revision = revision + 1 WHERE id = $1"
_POOLS: Final = """
SELECT p.id, p.batch_id FROM pools p JOIN batches b ON b.id = p.batch_id
WHERE p.batch_id = ANY ($1) AND p.total > 0 AND b.ended_at IS NULL AND (b.ends_at IS NULL OR b.ends_at > now())
ORDER BY p.id"""


async def import_ango(
    stores: Stores, dsn: str, *, actor: str, time_zone: str = "UTC", progress: Progress | None = None
) -> ImportReport:
    """Import everything from the database at `dsn`, which is only read; `time_zone`: of its times without one.

    Used codes are recorded in the ledger as redeemed by their customers at their times, and are never issued again.
    Raises ImportRefusedError and PostgresUnavailableError: batches before the failure are imported, and a repeat
    continues behind them. What Redis does not take is loaded by the worker later.
    """
    run = _Import(stores, actor, progress or ignore_progress)
    async with (
        open_ango(dsn, time_zone=time_zone) as source,
        unavailable_translated(),
        own_connection(stores.settings) as connection,
    ):
        try:
            await run.read(connection, source)
        except (TooManyClientsError, BatchEndedError) as error:
            raise ImportRefusedError(str(error)) from error
    await run.load()
    run.report.seconds = round(time.monotonic() - run.started, 3)
    async with unavailable_translated(), stores.postgres.acquire() as pooled, pooled.transaction():
        await audit.record(
            pooled, actor=actor, action="import.ango", subject=f"import:{run.report.run}",
            detail=run.report.counts(),
        )  # fmt: skip
    return run.report


class _Rows:
    """The rows of the source, which come ordered by batch, one batch at a time."""

    def __init__(self, rows: AsyncIterator[asyncpg.Record]) -> None:
        self._rows = rows
        self._next: asyncpg.Record | None = None

    async def next_batch(self) -> tuple[str | None] | None:
        """Return the key of the next batch, in a tuple; None at the end."""
        if self._next is None:
            self._next = await anext(self._rows, None)
        return None if self._next is None else (self._next["batch"],)

    async def of_batch(self) -> AsyncIterator[asyncpg.Record]:
        """Yield the rows of the batch that `next_batch` has returned."""
        row = self._next
        assert row is not None
        key = row["batch"]
        while row is not None and row["batch"] == key:
            yield row
            row = self._next = await anext(self._rows, None)


class _Import:
    """One run of `import_ango`."""

    def __init__(self, stores: Stores, actor: str, progress: Progress) -> None:
        self.started = time.monotonic()
        self.report = ImportReport(uuid4())
        self._now = datetime.now(UTC)
        self._stores = stores
        self._actor = actor
        self._progress = progress
        self._row = 0
        self._total = 0
        self._imported: list[UUID] = []

    async def read(self, connection: AnyConnection, source: AngoSource) -> None:
        """Import batch by batch. Raises ImportRefusedError before anything is changed if an id is taken."""
        batches = {batch.key: batch for batch in await source.batches()}
        self.report.batches = len(batches)
        ids = {key: parse_uuid(batch.id) if batch.id else None for key, batch in batches.items()}
        taken = await connection.fetch(_TAKEN, [batch_id for batch_id in ids.values() if batch_id], SOURCE)
        if taken:
            names = ", ".join(str(row["id"]) for row in taken[:20])
            raise ImportRefusedError(f"nothing was imported: ids are taken by batches of this installation: {names}")
        self._total = await source.count()
        async with aclosing(source.rows()) as found:
            rows = _Rows(found)
            while (key := await rows.next_batch()) is not None:
                await self._import(connection, batches.pop(key[0], None), str(key[0]), rows.of_batch())
        for batch in batches.values():
            await self._import(connection, batch, str(batch.key), _nothing())

    async def _import(
        self, connection: AnyConnection, batch: SourceBatch | None, key: str, rows: AsyncIterator[asyncpg.Record]
    ) -> None:
        problem, new = f"there is no batch {key}", None
        if batch is not None:
            new, problem = self._new_batch(batch)
        if batch is None or new is None or new.id is None:
            count = 0
            async for row in rows:
                if count == 0:
                    self.report.list(key, row["code"], problem)
                count += 1
            self.report.skipped += count
            return
        reader = AngoRows(self._stores.identity, new.id, self.report, self._now)
        async with staging_table(connection):
            await connection.execute(CREATE_ROWS)
            await connection.copy_to_table(
                "imported_rows", source=self._counted(reader.lines(rows)), format="text", timeout=FILE_TIMEOUT_S
            )
            async with connection.transaction():
                used = await self._add(connection, batch, new, reader)
            if used is not None and used.open_clients:
                used = await self._take_back(connection, new.id, reader, used)
        if used is not None:
            self._show_conflicts(str(new.id), used)
        self._imported.append(new.id)

    def _new_batch(self, batch: SourceBatch) -> tuple[NewBatch | None, str]:
        batch_id = None if batch.id is None else parse_uuid(batch.id)
        if batch_id is None:
            return None, "the id of its batch is not a UUID"

        def note(reason: str) -> None:
            self.report.note(str(batch_id), None, reason)

        if batch.versions > 1:
            return None, "rows of its batch, whose ids are one UUID, have different rules"
        try:
            return NewBatch(name_of(batch.name, batch_id, note), rules_of(batch.rules, note), id=batch_id), ""
        except BadRulesError as error:
            return None, str(error)

    async def _counted(self, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for line in lines:
            self._row += 1
            if self._row % _SHOWN == 0:
                self._progress(Phase.IMPORTING, self._row, max(self._row, self._total))
            yield line

    async def _take_back(
        self, connection: AnyConnection, batch_id: UUID, reader: AngoRows, used: UsedCodes
    ) -> UsedCodes:
        """Record usages of codes that are in open pools. Return what is left."""

        async def record() -> UsedCodes:
            return await record_used(connection, batch_id, reader.clients.ids, self.report.run)

        recorded = await take_back(self._stores, connection, batch_id, used.open_clients, record)
        if recorded is None:
            return used
        self.report.used += recorded.recorded
        return recorded

    def _show_conflicts(self, batch: str, used: UsedCodes) -> None:
        self.report.conflicts += used.conflicts
        for row in used.shown:
            reason = "was issued here" if row["issued"] else "may be issued here: repeat while the worker records"
            self.report.list(batch, row["code"], f"is used in the source, but {reason}")

    async def _add(
        self, connection: AnyConnection, batch: SourceBatch, new: NewBatch, reader: AngoRows
    ) -> UsedCodes | None:
        """Add the batch and its codes and record their usages; None: the batch has ended here."""
        assert new.id is not None
        report, clients = self.report, reader.clients
        ended = await connection.fetchval(_STATE, new.id)
        if ended is None:
            await create_batch_in(connection, new, self._actor)
            await connection.execute(_MARK, new.id, SOURCE)
            report.new_batches += 1
        if ended and reader.rows:
            await self._skip_ended(connection, new.id, reader)
            return None
        unknown = await unregistered(connection, list(clients.texts))
        named = [clients.identity(client) for client in unknown]
        report.clients += len(await register_clients(connection, named, self._actor))
        await connection.execute(STAGE, timeout=FILE_TIMEOUT_S)
        numbering = await number_rows(connection, new.id, clients.ids)
        await insert_codes(connection, new.id, clients.ids, numbering)
        used = await record_used(connection, new.id, clients.ids, report.run)
        self._count(str(new.id), reader, numbering)
        report.used += used.recorded
        if batch.expired and not ended:
            await connection.execute(_END, new.id)
            await audit.record(
                connection, actor=self._actor, action="batch.end", subject=f"batch:{new.id}",
                detail={"import": str(report.run)},
            )  # fmt: skip
        return used

    def _count(self, batch: str, reader: AngoRows, numbering: Numbering) -> None:
        report, duplicates = self.report, numbering.duplicates
        report.codes += sum(addition.count for addition in numbering.additions)
        report.unchanged += duplicates.in_batch
        report.skipped += duplicates.in_file + duplicates.in_other_batches
        if duplicates.in_file:
            report.list(
                batch, None, f"{duplicates.in_file} codes are in the batch more than once, for different clients"
            )
        for other in duplicates.other_batches:
            reason = f"{other.codes} codes are in batch {other.batch_id} already"
            report.list(batch, None, reason)

    async def _skip_ended(self, connection: AnyConnection, batch_id: UUID, reader: AngoRows) -> None:
        new = await connection.fetchval(_NEW_IN_ENDED, batch_id, timeout=FILE_TIMEOUT_S)
        self.report.unchanged += reader.rows - new
        if new:
            self.report.skip(str(batch_id), None, f"the batch has ended here: {new} new codes or usages", new)

    async def load(self) -> None:
        """Push the batches to Redis and load their pools. What fails now is done by the worker."""
        if not self._imported:
            return
        try:
            for batch_id in self._imported:
                await push_batch(self._stores, batch_id)
            async with unavailable_translated():
                pools = await self._stores.postgres.fetch(_POOLS, self._imported)
            for pool in pools:
                result = await load_pool_of_batch(self._stores, pool["batch_id"], pool["id"], progress=self._loaded)
                self.report.in_redis += result.in_redis
        except TRANSIENT_ERRORS as error:
            self.report.note("", None, f"not all is in Redis yet, the worker loads the rest: {error}")

    def _loaded(self, codes: int) -> None:
        self._progress(Phase.LOADING, codes, None)


_NEW_IN_ENDED: Final = """
SELECT count(*) FROM imported_rows i LEFT JOIN LATERAL (
  SELECT pool_id, seq FROM codes c WHERE c.code = i.code AND c.batch_id = $1 LIMIT 1) c ON true
WHERE c.seq IS NULL OR (i.used_at IS NOT NULL AND NOT EXISTS (
  SELECT FROM redemptions r WHERE r.pool_id = c.pool_id AND r.seq = c.seq))"""


async def _nothing() -> AsyncIterator[asyncpg.Record]:
    """Yield no row: of a batch without codes."""
    none: tuple[asyncpg.Record, ...] = ()
    for row in none:
        yield row

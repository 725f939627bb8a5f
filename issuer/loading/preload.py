"""Preload a file of codes into a batch: check the rows, number them in Postgres in one transaction, load Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol
from uuid import UUID

from issuer.access import audit
from issuer.batches.batch import NewBatch
from issuer.batches.named import find_open_by_name
from issuer.batches.store import check_batch_open, create_batch_in, push_batch
from issuer.clients.quotas import check_quotas
from issuer.clients.registry import client_names, register_clients, unregistered
from issuer.ids import Identity
from issuer.loading.code_file import checked_rows
from issuer.loading.code_rows import CodeRows
from issuer.loading.duplicates import Duplicates
from issuer.loading.errors import PreloadError, SourceError
from issuer.loading.file_clients import FileClients
from issuer.loading.new_clients import clients_to_create, reject_clients
from issuer.loading.progress import Phase, Progress
from issuer.loading.report import ClientReport, NothingLoadedError, PoolReport, PreloadReport, UnfinishedLoadError
from issuer.loading.staging import Numbering, copy_rows, insert_codes, number_rows, staging_table
from issuer.pools.counters import codes_to_load
from issuer.pools.loader import LoadResult, load_pool
from issuer.pools.memory import RedisMemoryError, check_room, codes_bytes
from issuer.pools.pool import BatchNotInRedisError, PoolError
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import (
    AnyConnection,
    PostgresUnavailableError,
    own_connection,
    unavailable_translated,
)
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

READ_BYTES: Final = 65_536
"""Bytes read at a time: about 1 ms of parsing, after which other tasks of the event loop run."""
MAX_CONCURRENT_POOLS: Final = 3
TRANSIENT_ERRORS: Final = (PoolError, RedisMemoryError, RedisUnavailableError, PostgresUnavailableError)
"""Errors that may prevent loading codes into Redis for a while; a later attempt can succeed."""


class Source(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


async def preload_file(
    stores: Stores,
    source: Source | AsyncIterable[bytes],
    *,
    batch_id: UUID | None = None,
    new_batch: NewBatch | None = None,
    find_by_name: bool = False,
    client_id: UUID | None = None,
    default_client: UUID | None = None,
    create_clients: bool = False,
    create_option: str = "--create-clients",
    sheet: str | None = None,
    attributes: Sequence[str] = (),
    move: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    actor: str | None = None,
    act: Act[PreloadReport] = UNKEPT,
) -> PreloadReport:
    """Add the codes of a file to a batch. Loading the same file again adds nothing and completes an earlier load.

    Codes that their client has in another batch are not added. With `move` those that an ended batch did not issue are
    moved out of it. The batch is an existing one, or a new one that is created with its first code: without a new code
    there is none. With `find_by_name` an open batch of that name takes its place. With `client_id` rows of other
    clients are rejected; that one, or else `default_client`, is the client of rows that name none. Rows of a client
    that is named by a text and not registered are rejected, unless `create_clients` registers it, which their reasons
    call `create_option`. `sheet` chooses one of a workbook; `attributes` are the columns that are kept with the codes.
    With `actor` the audit log gets an entry. All changes in Postgres are one transaction, which keeps the answer to
    `act`. Opens a Postgres connection of its own.

    Raises PreloadError, NothingLoadedError if no row is valid, BatchNotFoundError, BatchEndedError, BatchIdTakenError,
    InvalidBatchError, QuotaExceededError, MoveError, RedisMemoryError and RedisUnavailableError (each: nothing was
    changed), PostgresUnavailableError (all codes were added or none), and UnfinishedLoadError (all were added).
    """
    if batch_id is None and new_batch is None and not dry_run:
        raise ValueError("only a dry run can be done without a batch")
    clients = FileClients(stores.identity, only=client_id, default=default_client)
    load = _Load(
        stores, batch_id, CodeRows(clients, attributes), progress, actor, sheet=sheet,
        new_batch=new_batch, find_by_name=find_by_name, create_clients=create_clients, create_option=create_option,
        move=move, act=act,
    )  # fmt: skip
    await load.check_batch()
    async with (
        unavailable_translated(),
        # Not one of the pool, which serves requests: a load may take minutes.
        own_connection(stores.settings, timeout_s=stores.settings.postgres_timeout_s) as connection,
        staging_table(connection),
    ):
        await load.read(connection, source)
        await load.number(connection, dry_run=dry_run)
    if not dry_run:
        await load.load_pools()
    return load.report(dry_run=dry_run)


class _Load:
    """One run of `preload_file`."""

    def __init__(
        self,
        stores: Stores,
        batch_id: UUID | None,
        rows: CodeRows,
        progress: Progress | None,
        actor: str | None,
        *,
        sheet: str | None,
        new_batch: NewBatch | None,
        find_by_name: bool,
        create_clients: bool,
        create_option: str,
        move: bool,
        act: Act[PreloadReport],
    ) -> None:
        self._stores = stores
        self._batch_id = batch_id
        self._rows = rows
        self._sheet = sheet
        self._progress = progress
        self._actor = actor
        self._new_batch = new_batch
        self._find_by_name = find_by_name
        self._create_clients = create_clients
        self._create_option = create_option
        self._new_clients: Sequence[Identity] = ()
        self._names: Mapping[UUID, str] = {}
        self._move = move
        self._act = act
        self._is_new = False
        self._started = time.monotonic()
        self._numbering = Numbering(Duplicates(), (), "")
        self._redis_bytes = 0
        self._codes_to_load = 0
        self._pools: list[PoolReport] = []

    def _show(self, phase: Phase, done: int, of: int | None) -> None:
        if self._progress is not None:
            self._progress(phase, done, of)

    async def check_batch(self) -> None:
        """Raise BatchNotFoundError or BatchEndedError if no codes can be added."""
        if self._batch_id is not None:
            await check_batch_open(self._stores.postgres, self._batch_id)

    async def read(self, connection: AnyConnection, source: Source | AsyncIterable[bytes]) -> None:
        """Copy the valid rows into the staging table. Raises PreloadError."""
        # Closed here: a process that reads a workbook must not outlive a load that fails.
        async with aclosing(checked_rows(self._read(source), self._rows, self._sheet)) as rows:
            await copy_rows(connection, rows, with_attributes=bool(self._rows.attributes))

    async def _read(self, source: Source | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for block in _blocks(source):
            size += len(block)
            self._show(Phase.READING, size, None)
            yield block

    async def number(self, connection: AnyConnection, *, dry_run: bool) -> None:
        """In one transaction: remove duplicates, assign seqs, check for room in Redis, insert the codes.

        A dry run is rolled back at the end. Raises NothingLoadedError if no row is valid.
        """
        self._show(Phase.NUMBERING, 0, None)
        transaction = connection.transaction()
        await transaction.start()
        try:
            await self._act.begin(connection)
            if self._batch_id is None and self._new_batch is not None and self._find_by_name:
                self._batch_id = await self._find_batch(connection, self._new_batch)
            clients = self._rows.clients
            unknown = await unregistered(connection, list(clients.texts))
            if unknown and not self._create_clients:
                await reject_clients(connection, self._rows, unknown, create_option=self._create_option)
            if not self._rows.accepted:
                raise NothingLoadedError(self.report(dry_run=False))
            without = () if self._create_clients else unknown
            self._numbering = await number_rows(
                connection, self._batch_id, clients.ids, without=without, move=self._move
            )
            self._new_clients = clients_to_create(clients, unknown, self._numbering)
            await self._check_room()
            if not dry_run:
                await self._insert(connection)
            # Those that a dry run would register are called by their texts.
            new_names = {client.uuid: str(client.text) for client in self._new_clients}
            self._names = new_names | await client_names(connection, clients.ids)
            if not dry_run:
                await self._act.keep(connection, self.report(dry_run=False))
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if dry_run else transaction.commit())

    async def _find_batch(self, connection: AnyConnection, new: NewBatch) -> UUID | None:
        found = await find_open_by_name(connection, new.name) if new.id is None else None
        if found is None:
            return None
        if (found.rules, found.starts_at, found.ends_at) != (new.rules, new.starts_at, new.ends_at):
            raise PreloadError(f"batch {found.id} of that name was created meanwhile, with other rules or times")
        return found.id

    async def _insert(self, connection: AnyConnection) -> None:
        if not self._numbering.additions:
            return
        if self._batch_id is None:
            assert self._new_batch is not None, "a load needs a batch"
            self._batch_id = (await create_batch_in(connection, self._new_batch, self._actor or "unknown")).id
            self._is_new = True
        self._new_clients = await register_clients(connection, self._new_clients, self._actor or "unknown")
        await insert_codes(connection, self._batch_id, self._rows.clients.ids, self._numbering)
        ids = self._rows.clients.ids
        await check_quotas(connection, [ids[addition.client] for addition in self._numbering.additions])
        if self._actor is not None:
            report = self.report(dry_run=False)
            detail: dict[str, Any] = {"rows": report.rows, "loaded": report.loaded, "rejected": report.rejected}
            if report.moved:
                detail["moved"] = {str(batch.batch_id): batch.codes for batch in report.moved}
            await audit.record(
                connection,
                actor=self._actor,
                action="codes.load",
                subject=f"batch:{self._batch_id}",
                detail=detail,
            )

    async def _check_room(self) -> None:
        """Raise RedisMemoryError if the codes do not fit. Codes beyond the high-water mark stay in Postgres."""
        additions = self._numbering.additions
        totals = {self._rows.clients.ids[addition.client]: addition.base + addition.count for addition in additions}
        codes = sum(addition.count for addition in additions)
        if not codes:
            return
        to_load = await codes_to_load(self._stores, self._batch_id or UUID(int=0), totals)
        code_bytes = sum(addition.code_bytes for addition in additions)
        self._codes_to_load = to_load
        self._redis_bytes = codes_bytes(to_load, code_bytes * to_load // codes, pools=len(additions))
        await check_room(self._stores.redis, self._redis_bytes)

    async def load_pools(self) -> None:
        """Load every pool of the file into Redis, also pools without new codes: an earlier run may have been killed
        here."""
        if self._batch_id is None:
            return
        async with unavailable_translated():
            rows = await self._stores.postgres.fetch(
                "SELECT id FROM pools WHERE batch_id = $1 AND client_id = ANY ($2) AND total > 0 ORDER BY id",
                self._batch_id,
                self._rows.clients.ids,
            )
        batch_id, loaded = self._batch_id, 0

        def count(codes: int) -> None:
            nonlocal loaded
            loaded += codes
            self._show(Phase.LOADING, loaded, max(loaded, self._codes_to_load))

        progress = None if self._progress is None else count

        # Several at a time: codes of one pool are read while another pool waits for Redis to sync its file.
        slots = asyncio.Semaphore(MAX_CONCURRENT_POOLS)

        async def load(pool_id: int) -> LoadResult:
            async with slots:
                return await load_pool_of_batch(self._stores, batch_id, pool_id, progress=progress)

        if self._is_new:
            # Or else each of its pools finds that Redis lacks it. They report why it could not be pushed.
            with suppress(*TRANSIENT_ERRORS):
                await push_batch(self._stores, batch_id)
        results = await asyncio.gather(*(load(row["id"]) for row in rows), return_exceptions=True)
        added = {self._rows.clients.ids[addition.client]: addition.count for addition in self._numbering.additions}
        self._pools = [
            PoolReport(client, self._names.get(client), added.get(client, 0), result.pool.total, result.in_redis)
            for result in results
            if isinstance(result, LoadResult)
            for client in (result.pool.client_id,)
        ]
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, TRANSIENT_ERRORS):
                raise failure
        if failures:
            raise UnfinishedLoadError(self.report(dry_run=False), str(failures[0])) from failures[0]

    def _client(self, client_id: UUID, count: int) -> ClientReport:
        return ClientReport(client_id, self._names.get(client_id), count)

    def report(self, *, dry_run: bool) -> PreloadReport:
        """Return the report of the steps done so far."""
        numbering, reader = self._numbering, self._rows
        pools = self._pools
        clients = [self._client(reader.clients.ids[new.client], new.count) for new in numbering.additions]
        default = reader.clients.given_default
        if dry_run:
            high = self._stores.settings.pool_high_water
            pools = [
                PoolReport(
                    client.client_id,
                    client.client_name,
                    new.count,
                    new.base + new.count,
                    min(new.base + new.count, high),
                )
                for client, new in zip(clients, numbering.additions, strict=True)
            ]
        return PreloadReport(
            batch_id=self._batch_id,
            dry_run=dry_run,
            rows=reader.accepted + reader.rejected,
            loaded=sum(addition.count for addition in numbering.additions),
            duplicates_in_file=numbering.duplicates.in_file,
            duplicates_in_batch=numbering.duplicates.in_batch,
            duplicates_in_other_batches=numbering.duplicates.in_other_batches,
            rejected=reader.rejected,
            new_batch=self._is_new or (dry_run and self._batch_id is None),
            rejections=list(reader.rejections),
            other_batches=numbering.duplicates.other_batches,
            rows_in_other_batches=numbering.duplicates.rows,
            repeated_rows=numbering.duplicates.repeated,
            owners_in_batch=numbering.owners,
            default_client=self._client(default, unnamed) if default and (unnamed := reader.without_client) else None,
            clients=clients,
            moved=numbering.moved,
            created_clients=[str(client.text) for client in self._new_clients],
            pools=pools,
            redis_bytes=self._redis_bytes,
            seconds=round(time.monotonic() - self._started, 3),
        )


async def load_pool_of_batch(
    stores: Stores, batch_id: UUID, pool_id: int, *, progress: Callable[[int], None] | None = None
) -> LoadResult:
    """Load a pool, after pushing the batch if Redis lacks it: its creator may have been killed before the push.

    Raises what `load_pool` raises.
    """
    try:
        return await load_pool(stores, pool_id, progress=progress)
    except BatchNotInRedisError:
        await push_batch(stores, batch_id)
        return await load_pool(stores, pool_id, progress=progress)


async def _blocks(source: Source | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    try:
        if isinstance(source, AsyncIterable):
            async for block in source:
                yield block
            return
        while block := source.read(READ_BYTES):
            yield block
            await asyncio.sleep(0)  # reading a file never yields to the event loop: let other tasks run
    except OSError as error:
        raise SourceError(f"the file cannot be read: {error}") from error

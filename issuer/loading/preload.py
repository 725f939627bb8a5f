"""A CSV file of codes on its way into a batch: checked, numbered in Postgres in one transaction, brought to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID

from issuer.access import audit
from issuer.batches.store import check_batch_open, push_batch
from issuer.loading.code_csv import CodeCsv, CsvError, CsvHeaderError, Rejection
from issuer.loading.staging import Numbering, copy_rows, insert_codes, number_rows, staging_table
from issuer.pools.counters import codes_to_load
from issuer.pools.loader import LoadResult, load_pool
from issuer.pools.memory import RedisMemoryError, check_room, codes_bytes
from issuer.pools.pool import BatchNotInRedisError, PoolError
from issuer.storage.postgres import PoolConnection, PostgresUnavailableError, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

READ_BYTES: Final = 65_536
"""Bytes read at a time: about a ms of parsing, between which others get their turn."""
MAX_CONCURRENT_POOLS: Final = 3
PASSING: Final = (PoolError, RedisMemoryError, RedisUnavailableError, PostgresUnavailableError)
"""What may keep codes from Redis for a while."""


class PreloadError(Exception):
    """The load as a whole is refused; nothing was changed. The message is for whoever asked."""


class HeaderError(PreloadError):
    """The file does not begin with a line that names the columns."""


class SourceError(PreloadError):
    """The file could not be read to its end."""


class UnfinishedLoadError(Exception):
    """The codes are in the batch for good, but not all that should be are in Redis; `report` says how far it came.

    A top-up of the worker brings them there; so does the same load once more, which adds nothing else.
    """

    def __init__(self, report: PreloadReport, reason: str) -> None:
        super().__init__(f"the codes are in Postgres, but not all of them in Redis: {reason}")
        self.report = report


class Source(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


class Phase(StrEnum):
    GENERATING = "generating"
    READING = "reading"
    NUMBERING = "numbering"
    LOADING = "loading"


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What a load did to one pool. `total` and `in_redis` are the state after it; of a dry run as it would be."""

    client_id: UUID
    loaded: int
    total: int
    in_redis: int


@dataclass(frozen=True, slots=True)
class PreloadReport:
    """What became of every row: ``rows = loaded + duplicates_in_file + duplicates_in_batch + rejected``."""

    batch_id: UUID | None
    dry_run: bool
    rows: int
    loaded: int
    duplicates_in_file: int
    duplicates_in_batch: int
    rejected: int
    rejections: list[Rejection] = field(default_factory=list)
    """The first 1,000 of them."""
    pools: list[PoolReport] = field(default_factory=list)
    redis_bytes: int = 0
    """Estimate of the Redis memory for what this load brings there."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[Phase, int, int | None], None]
"""Told what is going on, how far it has come and, if known, of how much: bytes read, or codes generated or loaded."""


async def preload_csv(
    stores: Stores,
    source: Source | AsyncIterable[bytes],
    *,
    batch_id: UUID | None,
    client_id: UUID | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    actor: str | None = None,
) -> PreloadReport:
    """Adds the codes of a CSV file to a batch; the same file again adds nothing and finishes what was left.

    `batch_id` None is for a dry run of a batch that is not there yet. `client_id` is for a file without that column,
    or to reject other clients' rows. With `actor` the audit log tells of it. Holds one Postgres connection.

    Raises PreloadError (HeaderError, SourceError), BatchNotFoundError, BatchEndedError, RedisMemoryError and
    RedisUnavailableError (nothing was changed by any of them), PostgresUnavailableError (all codes were added or
    none), and UnfinishedLoadError (all were added).
    """
    if batch_id is None and not dry_run:
        raise ValueError("a batch is needed")
    load = _Load(stores, batch_id, CodeCsv(client_id), progress, actor)
    await load.check_batch()
    async with (
        unavailable_translated(),
        stores.postgres.acquire() as connection,
        staging_table(connection),
    ):
        await load.read(connection, source)
        await load.number(connection, dry_run=dry_run)
    if not dry_run:
        await load.bring_to_redis()
    return load.report(dry_run=dry_run)


class _Load:
    """One run of `preload_csv`."""

    def __init__(
        self, stores: Stores, batch_id: UUID | None, reader: CodeCsv, progress: Progress | None, actor: str | None
    ) -> None:
        self._stores = stores
        self._batch_id = batch_id
        self._csv = reader
        self._progress = progress
        self._actor = actor
        self._started = time.monotonic()
        self._numbering = Numbering(0, 0, (), "")
        self._redis_bytes = 0
        self._to_push = 0
        self._pools: list[PoolReport] = []

    def _show(self, phase: Phase, done: int, of: int | None) -> None:
        if self._progress is not None:
            self._progress(phase, done, of)

    async def check_batch(self) -> None:
        if self._batch_id is not None:
            await check_batch_open(self._stores.postgres, self._batch_id)

    async def read(self, connection: PoolConnection, source: Source | AsyncIterable[bytes]) -> None:
        try:
            await copy_rows(connection, self._rows(source))
        except CsvHeaderError as error:
            raise HeaderError(str(error)) from error
        except CsvError as error:
            raise PreloadError(str(error)) from error

    async def _rows(self, source: Source | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for block in _blocks(source):
            if rows := self._csv.feed(block):
                yield rows
            size += len(block)
            self._show(Phase.READING, size, None)
        yield self._csv.finish()

    async def number(self, connection: PoolConnection, *, dry_run: bool) -> None:
        """One transaction: duplicates out, seqs given, room in Redis made sure of, codes inserted."""
        self._show(Phase.NUMBERING, 0, None)
        transaction = connection.transaction()
        await transaction.start()
        try:
            self._numbering = await number_rows(connection, self._batch_id, self._csv.clients)
            await self._check_room()
            if not dry_run:
                await self._insert(connection)
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if dry_run else transaction.commit())

    async def _insert(self, connection: PoolConnection) -> None:
        assert self._batch_id is not None
        if not self._numbering.shares:
            return
        await insert_codes(connection, self._batch_id, self._csv.clients, self._numbering)
        if self._actor is not None:
            report = self.report(dry_run=False)
            detail = {"rows": report.rows, "loaded": report.loaded, "rejected": report.rejected}
            await audit.record(
                connection,
                actor=self._actor,
                action="codes.load",
                subject=f"batch:{self._batch_id}",
                detail=detail,
            )

    async def _check_room(self) -> None:
        """Refuses what would not fit. What stays in Postgres, beyond the high-water mark, does not count."""
        shares = self._numbering.shares
        totals = {self._csv.clients[share.client]: share.base + share.count for share in shares}
        codes = sum(share.count for share in shares)
        if not codes:
            return
        self._to_push = await codes_to_load(self._stores, self._batch_id or UUID(int=0), totals)
        code_bytes = sum(share.code_bytes for share in shares)
        self._redis_bytes = codes_bytes(self._to_push, code_bytes * self._to_push // codes, pools=len(shares))
        await check_room(self._stores.redis, self._redis_bytes)

    async def bring_to_redis(self) -> None:
        """Loads every pool of the file, those with nothing new too: an earlier run may have died here."""
        assert self._batch_id is not None
        async with unavailable_translated():
            rows = await self._stores.postgres.fetch(
                "SELECT id FROM pools WHERE batch_id = $1 AND client_id = ANY ($2) AND total > 0 ORDER BY id",
                self._batch_id,
                self._csv.clients,
            )
        batch_id, pushed = self._batch_id, 0

        def count(codes: int) -> None:
            nonlocal pushed
            pushed += codes
            self._show(Phase.LOADING, pushed, max(pushed, self._to_push))

        progress = None if self._progress is None else count

        # A few at a time: while one waits for Redis to write its file another one's codes are read.
        slots = asyncio.Semaphore(MAX_CONCURRENT_POOLS)

        async def load(pool_id: int) -> LoadResult:
            async with slots:
                return await load_pool_of_batch(self._stores, batch_id, pool_id, progress=progress)

        results = await asyncio.gather(*(load(row["id"]) for row in rows), return_exceptions=True)
        new = {self._csv.clients[share.client]: share.count for share in self._numbering.shares}
        self._pools = [
            PoolReport(done.pool.client_id, new.get(done.pool.client_id, 0), done.pool.total, done.in_redis)
            for done in results
            if isinstance(done, LoadResult)
        ]
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, PASSING):
                raise failure
        if failures:
            raise UnfinishedLoadError(self.report(dry_run=False), str(failures[0])) from failures[0]

    def report(self, *, dry_run: bool) -> PreloadReport:
        numbering, reader = self._numbering, self._csv
        pools = self._pools
        if dry_run:
            high = self._stores.settings.pool_high_water
            pools = [
                PoolReport(reader.clients[s.client], s.count, s.base + s.count, min(s.base + s.count, high))
                for s in numbering.shares
            ]
        return PreloadReport(
            batch_id=self._batch_id,
            dry_run=dry_run,
            rows=reader.accepted + reader.rejected,
            loaded=sum(share.count for share in numbering.shares),
            duplicates_in_file=numbering.repeated,
            duplicates_in_batch=numbering.in_batch,
            rejected=reader.rejected,
            rejections=list(reader.rejections),
            pools=pools,
            redis_bytes=self._redis_bytes,
            seconds=round(time.monotonic() - self._started, 3),
        )


async def load_pool_of_batch(
    stores: Stores, batch_id: UUID, pool_id: int, *, progress: Callable[[int], None] | None = None
) -> LoadResult:
    """`load_pool`, also where whoever made the batch died before Redis heard of it."""
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
            await asyncio.sleep(0)  # a file never makes us wait, and others want their turn
    except OSError as error:
        raise SourceError(f"the file cannot be read: {error}") from error

"""`issuer preload`: a CSV file of codes into a batch."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from uuid import UUID

import typer

from issuer.batches.rules import Rules, RulesError, parse_rules_text
from issuer.cli.output import CommandError, InputError, fail, print_json, run
from issuer.cli.progress import progress_bars
from issuer.instants import InvalidInstantError, parse_instant

if TYPE_CHECKING:
    from datetime import datetime

    from issuer.batches.store import Batch
    from issuer.loading.preload import PreloadReport
    from issuer.stores import Stores

SHOWN_REJECTIONS: Final = 20
SHOWN_POOLS: Final = 20


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator asked for, checked as far as it can be without the stores."""

    batch_name: str | None
    batch_id: UUID | None
    rules: Rules | None
    starts_at: datetime | None
    ends_at: datetime | None
    client_id: UUID | None
    dry_run: bool
    silent: bool


def register(app: typer.Typer) -> None:
    app.command("preload")(preload)


def preload(
    file: str = typer.Argument(..., metavar="FILE", help="CSV file with a header; - reads standard input."),
    batch_name: str | None = typer.Option(
        None, help="Batch of this name that has not expired; a new one if there is none."
    ),
    batch_id: str | None = typer.Option(None, help="Id of a batch to add to."),
    rules: str | None = typer.Option(
        None, help='Rules of a new batch as JSON, such as {"maxpercustomer":2,"timelimit":30}.'
    ),
    client: str | None = typer.Option(None, help="Client id, for a file without a client_id column."),
    starts_at: str | None = typer.Option(
        None, help="When a new batch starts: ISO 8601 with an offset, 2026-06-01T00:00:00+02:00."
    ),
    ends_at: str | None = typer.Option(None, help="When a new batch ends, likewise."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check and count everything, change nothing."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Load codes from a CSV file with the columns client_id and code.

    The same file again adds nothing, and finishes a load that was killed. Exit codes: 0 loaded, even if single rows
    were rejected; 1 failed; 2 impossible as asked.
    """
    from issuer.loading.preload import UnfinishedLoadError

    try:
        request = Request(
            batch_name=batch_name,
            batch_id=_uuid(batch_id, "--batch-id"),
            rules=_rules(rules),
            starts_at=_instant(starts_at, "--starts-at"),
            ends_at=_instant(ends_at, "--ends-at"),
            client_id=_uuid(client, "--client"),
            dry_run=dry_run,
            silent=as_json,
        )
        if (batch_name is None) == (batch_id is None):
            raise InputError("give either --batch-name or --batch-id")
        with ExitStack() as opened:
            source = opened.enter_context(_source(file))
            report, new = run(lambda stores: _work(stores, request, source))
    except InputError as error:
        fail(str(error), 2)
    except UnfinishedLoadError as error:
        _show(error.report, new=False, as_json=as_json)
        fail(f"{error}. The worker finishes the load, or run the same command again.")
    _show(report, new=new, as_json=as_json)


async def _work(stores: Stores, request: Request, source: BinaryIO) -> tuple[PreloadReport, bool]:
    from issuer.audit import cli_actor
    from issuer.batches.store import BatchEndedError, BatchNotFoundError
    from issuer.loading.memory import RedisMemoryError
    from issuer.loading.preload import PreloadError, preload_csv

    batch, new = await _find_or_create(stores, request)
    try:
        with progress_bars(_size(source), silent=request.silent) as tell:
            report = await preload_csv(
                stores,
                source if _size(source) is not None else _piped(source),
                batch_id=batch.id if batch else None,
                client_id=request.client_id,
                dry_run=request.dry_run,
                progress=tell,
                actor=cli_actor(),
            )
    except (BatchNotFoundError, BatchEndedError, PreloadError) as error:
        await _end_if_empty(stores, batch, new)
        raise InputError(str(error)) from error
    except RedisMemoryError as error:
        await _end_if_empty(stores, batch, new)
        raise CommandError(f"nothing was loaded: {error}") from error
    return report, new


async def _end_if_empty(stores: Stores, batch: Batch | None, new: bool) -> None:
    """After a refusal: a batch made for this load that got nothing is not left open, with rules to be mended."""
    from issuer.audit import cli_actor
    from issuer.batches.store import BatchChanges, change_batch
    from issuer.redis_link import RedisUnavailableError

    if batch is None or not new:
        return
    if not await stores.postgres.fetchval("SELECT sum(total)::bigint FROM pools WHERE batch_id = $1", batch.id):
        with suppress(RedisUnavailableError):
            await change_batch(stores, batch.id, BatchChanges(expired=True), actor=cli_actor())


async def _find_or_create(stores: Stores, request: Request) -> tuple[Batch | None, bool]:
    """The batch, and whether it is new; None for a dry run of a batch that is not there."""
    from issuer.audit import cli_actor
    from issuer.batches.store import BatchNotFoundError, InvalidBatchError, find_batch, find_or_create_batch

    try:
        if request.batch_id is not None:
            batch = await find_batch(stores.postgres, request.batch_id)
            return _same(batch, request), False
        assert request.batch_name is not None
        found = await _of_name(stores, request.batch_name)
        if found is not None or request.dry_run:
            return found and _same(found, request), found is None
        batch, new = await find_or_create_batch(
            stores,
            name=request.batch_name,
            rules=request.rules or Rules(),
            starts_at=request.starts_at,
            ends_at=request.ends_at,
            actor=cli_actor(),
        )
    except BatchNotFoundError as error:
        raise InputError(f"there is no batch {request.batch_id}") from error
    except InvalidBatchError as error:
        raise InputError(str(error)) from error
    return (batch if new else _same(batch, request)), new


async def _of_name(stores: Stores, name: str) -> Batch | None:
    from issuer.batches.store import open_batches

    found = [batch for batch in await open_batches(stores.postgres) if batch.name == name.strip()]
    if len(found) > 1:
        ids = "\n".join(f"  {batch.id}  made {batch.created_at:%Y-%m-%d %H:%M:%S} UTC" for batch in found)
        raise InputError(f"several batches are called {name!r}; choose one with --batch-id:\n{ids}")
    return found[0] if found else None


def _same(batch: Batch, request: Request) -> Batch:
    """A load adds codes and changes nothing else: options that say otherwise are refused, not ignored."""
    if request.rules is not None and request.rules != batch.rules:
        raise InputError(f"batch {batch.id} has other rules. To change them: issuer batches set-rules {batch.id} '…'")
    for option, asked, there in (
        ("--starts-at", request.starts_at, batch.starts_at),
        ("--ends-at", request.ends_at, batch.ends_at),
    ):
        if asked is not None and asked != there:
            raise InputError(f"batch {batch.id} is there already, with another {option}; leave the option out")
    return batch


def _uuid(text: str | None, option: str) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError as error:
        raise InputError(f"{option}: not a UUID") from error


def _rules(text: str | None) -> Rules | None:
    try:
        return None if text is None else parse_rules_text(text)
    except RulesError as error:
        raise InputError(str(error)) from error


def _instant(text: str | None, option: str) -> datetime | None:
    try:
        return None if text is None else parse_instant(text)
    except InvalidInstantError as error:
        raise InputError(f"{option}: {error}") from error


@contextmanager
def _source(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below; only the opening is guarded
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    with file:
        yield file


def _size(source: BinaryIO) -> int | None:
    """Bytes of a regular file, which never makes a reader wait; None for a pipe or a terminal."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


async def _piped(source: BinaryIO) -> AsyncIterator[bytes]:
    from issuer.loading.preload import BLOCK

    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    try:
        while block := await reader.read(BLOCK):
            yield block
    finally:
        transport.close()


def _show(report: PreloadReport, *, new: bool, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json() | {"new_batch": new})
        return
    for line in _lines(report, new=new):
        typer.echo(line)


def _lines(report: PreloadReport, *, new: bool) -> Iterator[str]:
    if report.batch_id is not None:
        yield f"batch                  {report.batch_id}{' (new)' if new else ''}"
    elif report.dry_run:
        yield "batch                  (would be made)"
    yield f"rows                   {report.rows:>12,}"
    yield f"{'would be loaded' if report.dry_run else 'loaded':<22} {report.loaded:>12,}"
    yield f"duplicates in the file {report.duplicates_in_file:>12,}"
    yield f"duplicates in the batch{report.duplicates_in_batch:>12,}"
    yield f"rejected               {report.rejected:>12,}"
    for rejection in report.rejections[:SHOWN_REJECTIONS]:
        yield f"  line {rejection.line:,}: {rejection.reason}"
    if report.rejected > SHOWN_REJECTIONS:
        yield f"  … and {report.rejected - SHOWN_REJECTIONS:,} more; --json lists the first 1,000"
    for pool in report.pools[:SHOWN_POOLS]:
        there = "would be in Redis" if report.dry_run else "in Redis"
        yield f"client {pool.client_id}: {pool.loaded:,} new, {pool.total:,} in all, {pool.in_redis:,} {there}"
    if len(report.pools) > SHOWN_POOLS:
        yield f"… and {len(report.pools) - SHOWN_POOLS:,} clients more; --json lists all"
    yield f"Redis memory           {report.redis_bytes / 1e6:>12,.2f} MB (estimate)"
    rate = f" ({report.loaded / report.seconds:,.0f} codes/s)" if report.seconds and report.loaded else ""
    yield f"seconds                {report.seconds:>12,.1f}{rate}"

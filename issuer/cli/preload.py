"""`issuer preload`: load a file of codes into a batch."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import typer

from issuer.cli.chosen_batch import (
    BATCH_ID,
    BATCH_NAME,
    ENDS_AT,
    RULES,
    STARTS_AT,
    ChosenBatch,
)
from issuer.cli.options import AS_JSON, client_option, default_client_option
from issuer.cli.output import BAD_INPUT, CommandError, InputError, command_settings, fail, print_json, run
from issuer.cli.progress import progress_bars
from issuer.names import visible

if TYPE_CHECKING:
    from issuer.loading.report import PreloadReport
    from issuer.storage.stores import Stores

MAX_SHOWN_ROWS: Final = 20
MAX_SHOWN_POOLS: Final = 20
MAX_SAME_REASON: Final = 5


def register(app: typer.Typer) -> None:
    app.command("preload")(preload)


def preload(
    file: str = typer.Argument(..., metavar="FILE", help="CSV or .xlsx file with a header; - reads standard input."),
    batch_name: str | None = BATCH_NAME,
    batch_id: str | None = BATCH_ID,
    rules: str | None = RULES,
    client: str | None = typer.Option(
        None, help="The client, for a file without a client_id column; default: ISSUER_DEFAULT_CLIENT."
    ),
    create_clients: bool = typer.Option(
        False, "--create-clients", help="Register the clients that the file names by a text and that are unknown."
    ),
    sheet: str | None = typer.Option(None, help="Name of the sheet of a workbook; default: the first."),
    attributes: str = typer.Option("", help="Columns that are kept and issued with the code, such as pin,seat."),
    starts_at: str | None = STARTS_AT,
    ends_at: str | None = ENDS_AT,
    move: bool = typer.Option(
        False,
        "--move",
        help="Move codes of the file that a batch which has ended did not issue, instead of refusing them.",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check and count all rows, change nothing."),
    as_json: bool = AS_JSON,
) -> None:
    """Load codes from a CSV file or workbook (.xlsx) with the columns client_id and code.

    A client has a code once: codes that it has in another batch are counted, not loaded. So loading the same file again
    adds nothing; it completes an interrupted load. A new batch is created with its first code. Exit codes: 0 loaded,
    even if rows were rejected; 1 failed, also if no row is valid; 2 invalid options.
    """
    from issuer.loading.report import NothingLoadedError, UnfinishedLoadError

    settings = command_settings()
    try:
        chosen = ChosenBatch.of(name=batch_name, id=batch_id, rules=rules, starts_at=starts_at, ends_at=ends_at)
        with ExitStack() as files:
            source = files.enter_context(_open_source(file))
            report = run(
                lambda stores: _load(
                    stores,
                    chosen,
                    source,
                    client,
                    create_clients=create_clients,
                    sheet=sheet,
                    attributes=attributes,
                    move=move,
                    dry_run=dry_run,
                    silent=as_json,
                ),
                settings=settings,
            )
    except InputError as error:
        fail(str(error), BAD_INPUT)
    except NothingLoadedError as error:
        _show(error.report, as_json=as_json)
        fail(str(error))
    except UnfinishedLoadError as error:
        _show(error.report, as_json=as_json)
        fail(f"{error}. The worker will load the rest; or run the same command again.")
    _show(report, as_json=as_json)


async def _load(
    stores: Stores,
    chosen: ChosenBatch,
    source: BinaryIO,
    client: str | None,
    *,
    create_clients: bool,
    sheet: str | None,
    attributes: str,
    move: bool,
    dry_run: bool,
    silent: bool,
) -> PreloadReport:
    from issuer.access.audit import cli_actor
    from issuer.batches.store import BatchEndedError, BatchIdTakenError, BatchNotFoundError, InvalidBatchError
    from issuer.clients.quotas import QuotaExceededError
    from issuer.loading.columns import parse_attributes
    from issuer.loading.errors import CodeFileError, HeaderRowError, PreloadError
    from issuer.loading.moves import MoveError
    from issuer.loading.preload import preload_file
    from issuer.pools.memory import RedisMemoryError

    client_id = await client_option(stores.postgres, client)
    batch = await chosen.find(stores)
    try:
        with progress_bars(_size(source), silent=silent) as progress:
            return await preload_file(
                stores,
                source if _size(source) is not None else _read_pipe(source),
                batch_id=batch.id if batch else None,
                new_batch=None if batch else chosen.new_batch(),
                find_by_name=True,
                client_id=client_id,
                default_client=None if client_id else await default_client_option(stores),
                create_clients=create_clients,
                sheet=sheet,
                attributes=parse_attributes(attributes),
                move=move,
                dry_run=dry_run,
                progress=progress,
                actor=cli_actor(),
            )
    except HeaderRowError as error:
        hint = "--client CLIENT names the client of all codes of a file" if error.needs_client else None
        raise CommandError(f"nothing was loaded: {error}", hint=hint) from error
    except CodeFileError as error:
        raise CommandError(f"nothing was loaded: {error}") from error
    except (BatchNotFoundError, BatchEndedError, BatchIdTakenError, InvalidBatchError, PreloadError) as error:
        raise InputError(str(error)) from error
    except (RedisMemoryError, MoveError, QuotaExceededError) as error:
        raise CommandError(f"nothing was loaded: {error}") from error


@contextmanager
def _open_source(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below; only the opening is guard_formula
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    with file:
        yield file


def _size(source: BinaryIO) -> int | None:
    """Return the size of a regular file, whose reads never block; None for a pipe or a terminal."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


async def _read_pipe(source: BinaryIO) -> AsyncIterator[bytes]:
    from issuer.loading.preload import READ_BYTES

    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    try:
        while block := await reader.read(READ_BYTES):
            yield block
    finally:
        transport.close()


def _show(report: PreloadReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
        return
    for line in _lines(report):
        typer.echo(line)


def _lines(report: PreloadReport) -> Iterator[str]:
    from issuer.clients.registry import client_label

    if report.batch_id is not None:
        yield f"batch                  {report.batch_id}{' (new)' if report.new_batch else ''}"
    elif report.dry_run and report.loaded:
        yield "batch                  (would be created)"
    else:
        yield "batch                  (none created: no new codes)"
    yield f"rows                   {report.rows:>12,}"
    yield f"{'would be loaded' if report.dry_run else 'loaded':<22} {report.loaded:>12,}"
    yield f"duplicates in the file {report.duplicates_in_file:>12,}"
    for repeated in report.repeated_rows[:MAX_SHOWN_ROWS]:
        yield f"  line {repeated.line:,}: the code of line {repeated.first_line:,}"
    yield f"duplicates in the batch{report.duplicates_in_batch:>12,}"
    yield f"in other batches       {report.duplicates_in_other_batches:>12,}"
    for batch in report.other_batches:
        yield f"  {batch.codes:,} in batch {batch.batch_id} {batch.batch_name!r}"
    for row in report.rows_in_other_batches[:MAX_SHOWN_ROWS]:
        yield f"  line {row.line:,}: in batch {row.batch_id} {row.batch_name!r}"
    for batch in report.moved:
        yield f"moved                  {batch.codes:>12,} from batch {batch.batch_id} {batch.batch_name!r}"
    if report.nothing_new:
        yield "nothing new: all codes are in the batch already"
    for owner in report.owners_in_batch:
        yield f"  {owner.count:,} of the client {visible(str(owner))}"
    yield f"rejected               {report.rejected:>12,}"
    yield from _rejection_lines(report)
    for text in report.created_clients:
        yield f"client {text!r} was registered"
    if (default := report.default_client) is not None:
        yield (
            f"rows without a client: {default.count:,}, given to the default client {visible(str(default))}"
            " (ISSUER_DEFAULT_CLIENT)"
        )
    for pool in report.pools[:MAX_SHOWN_POOLS]:
        in_redis = "would be in Redis" if report.dry_run else "in Redis"
        client = visible(client_label(pool.client_id, pool.client_name))
        yield f"client {client}: {pool.loaded:,} new, {pool.total:,} in total, {pool.in_redis:,} {in_redis}"
    if len(report.pools) > MAX_SHOWN_POOLS:
        yield f"… and {len(report.pools) - MAX_SHOWN_POOLS:,} more clients; --json lists all"
    yield f"Redis memory           {report.redis_bytes / 1e6:>12,.2f} MB (estimate)"
    rate = f" ({report.loaded / report.seconds:,.0f} codes/s)" if report.seconds and report.loaded else ""
    yield f"seconds                {report.seconds:>12,.1f}{rate}"


def _rejection_lines(report: PreloadReport) -> Iterator[str]:
    """Yield rejected rows by their reasons, the first rows of each: a mistake that is repeated must not hide others."""
    lines: dict[str, list[int]] = {}
    for row in report.rejections:
        lines.setdefault(row.reason, []).append(row.line)
    shown = counted = 0
    for reason, same in lines.items():
        if shown >= MAX_SHOWN_ROWS:
            break
        for line in same[:MAX_SAME_REASON]:
            yield f"  line {line:,}: {visible(reason)}"
        if (more := len(same) - MAX_SAME_REASON) > 0:
            yield f"  … and {more:,} more row{'' if more == 1 else 's'} with the same reason"
        shown += min(len(same), MAX_SAME_REASON)
        counted += len(same)
    if report.rejected > counted:
        yield f"  … and {report.rejected - counted:,} more rows; --json lists the first 1,000"

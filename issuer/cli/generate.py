"""`issuer generate`: generate random codes and load them into a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

import typer

from issuer.cli.chosen_batch import (
    BATCH_ID,
    BATCH_NAME,
    ENDS_AT,
    RULES,
    STARTS_AT,
    ChosenBatch,
    end_if_empty,
)
from issuer.cli.options import AS_JSON, client_option, default_client_option, uuid_option
from issuer.cli.output import BAD_INPUT, CommandError, InputError, command_settings, fail, print_json, run
from issuer.cli.progress import progress_bars
from issuer.generating.code_format import MAX_CODES, CodeFormat, CodeFormatError, CodeSpaceError, parse_code_format
from issuer.generating.word_filter import WordsError, parse_words
from issuer.names import visible

if TYPE_CHECKING:
    from issuer.batches.store import Batch
    from issuer.generating.jobs import Job
    from issuer.generating.request import GenerationRequest
    from issuer.pools.stock import Stock
    from issuer.storage.stores import Stores

MAX_EXAMPLES: Final = 3
_OPTIONS: Final = {"client_id": "--client", "unlucky_words": "--unlucky-words"}
"""The options of fields with another name."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The options of one run, parsed."""

    chosen: ChosenBatch
    client: str | None
    code_format: CodeFormat
    count: int
    job_id: UUID | None
    dry_run: bool


def register(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    count: int | None = typer.Option(None, min=1, max=MAX_CODES, help="Number of codes."),
    length: int | None = typer.Option(None, help="Random characters of a code; 12 if there is no pattern."),
    batch_name: str | None = BATCH_NAME,
    batch_id: str | None = BATCH_ID,
    client: str | None = typer.Option(
        None,
        help="Client that owns the codes; default: the only client of the batch, ISSUER_DEFAULT_CLIENT, or a new one.",
    ),
    rules: str | None = RULES,
    starts_at: str | None = STARTS_AT,
    ends_at: str | None = ENDS_AT,
    prefix: str | None = typer.Option(None, help="Text before the random characters."),
    suffix: str | None = typer.Option(None, help="Text after the random characters."),
    pattern: str | None = typer.Option(
        None, help="Instead of length, prefix and suffix: each # is a random character, as in SUMMER-####-####."
    ),
    alphabet: str | None = typer.Option(
        None,
        help="numeric, alphabetic, alphanumeric, unambiguous (no 0 O 1 I L U), or the characters themselves; "
        "default: unambiguous.",
    ),
    check: bool = typer.Option(False, "--check", help="Make the last random character a check character (Luhn mod N)."),
    no_unlucky: bool = typer.Option(False, "--no-unlucky", help="Allow codes with words of the built-in list."),
    unlucky_words: Path | None = typer.Option(
        None, metavar="FILE", help="Exclude codes with these words, too; one word per line."
    ),
    job: str | None = typer.Option(
        None, help="Id of a job to continue; or the id of the new job, which makes the command repeatable."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, show examples, change nothing."),
    as_json: bool = AS_JSON,
) -> None:
    """Generate random codes and load them.

    If the command is killed, run it again: it continues its job. Once it has finished, the same command generates as
    many codes again. Exit codes: 0 done; 1 failed; 2 invalid options, or the codes cannot be generated as requested.
    """
    settings = command_settings()
    try:
        job_id = uuid_option(job, "--job")
        if count is None:
            if job_id is None:
                raise InputError("give --count, or --job to continue a job")
            run(lambda stores: _continue_job(stores, job_id, as_json=as_json), settings=settings)
            return
        options = GenerateOptions(
            chosen=ChosenBatch.of(name=batch_name, id=batch_id, rules=rules, starts_at=starts_at, ends_at=ends_at),
            client=client,
            code_format=_parse_format(
                unlucky_words,
                length=length,
                prefix=prefix,
                suffix=suffix,
                pattern=pattern,
                alphabet=alphabet,
                check=check,
                unlucky=not no_unlucky,
            ),
            count=count,
            job_id=job_id,
            dry_run=dry_run,
        )
        run(lambda stores: _generate(stores, options, as_json=as_json), settings=settings)
    except CodeFormatError as error:
        fail(f"{_OPTIONS.get(error.field, f'--{error.field}')}{str(error).removeprefix(error.field)}", BAD_INPUT)
    except InputError as error:
        fail(str(error), BAD_INPUT)


def _parse_format(words: Path | None, **values: object) -> CodeFormat:
    try:
        own = None if words is None else parse_words(words.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {words}: {error}") from error
    except WordsError as error:
        raise CodeFormatError("unlucky_words", str(error)) from error
    return parse_code_format({**values, "unlucky_words": own})


async def _generate(stores: Stores, options: GenerateOptions, *, as_json: bool) -> None:
    from issuer.batches.store import BatchEndedError, BatchNotFoundError
    from issuer.clients.quotas import QuotaExceededError
    from issuer.generating.code_source import FewCodesError
    from issuer.generating.command_job import command_job
    from issuer.generating.jobs import JobIdReusedError
    from issuer.pools.memory import RedisMemoryError

    batch: Batch | None = None
    discard = False
    try:
        # Before a batch is created.
        options.code_format.check_space(options.count)
        client_id = await client_option(stores.postgres, options.client)
        batch, new = await options.chosen.find_or_create(stores, dry_run=options.dry_run)
        # A batch whose id was chosen is left open: the corrected command names the same id.
        discard = new and options.chosen.id is None
        request = await _build_request(stores, options, client_id, batch)
        if options.dry_run:
            await _show_forecast(stores, request, batch, as_json=as_json)
            return
        async with command_job(stores, request, job_id=options.job_id) as (job, abandoned):
            typer.echo(_describe_start(job, abandoned), err=True)
            await _finish(stores, job, new=new, as_json=as_json)
    except (BatchNotFoundError, BatchEndedError, CodeSpaceError, FewCodesError, JobIdReusedError) as error:
        await end_if_empty(stores, batch, discard)
        raise InputError(str(error)) from error
    except CodeFormatError:
        await end_if_empty(stores, batch, discard)
        raise
    except (RedisMemoryError, QuotaExceededError) as error:
        await end_if_empty(stores, batch, discard)
        raise CommandError(f"nothing was generated: {error}") from error


async def _build_request(
    stores: Stores, options: GenerateOptions, client_id: UUID | None, batch: Batch | None
) -> GenerationRequest:
    from issuer.access.audit import cli_actor
    from issuer.clients.registry import client_label, client_names
    from issuer.generating.request import GenerationRequest, find_only_client

    if client_id is None and batch is not None:
        client_id = await find_only_client(stores.postgres, batch.id)
    if client_id is None and (client_id := await default_client_option(stores)) is not None:
        name = (await client_names(stores.postgres, [client_id])).get(client_id)
        typer.echo(
            f"no client was given: the codes are of the default client {visible(client_label(client_id, name))}"
            " (ISSUER_DEFAULT_CLIENT)",
            err=True,
        )
    batch_id = UUID(int=0) if batch is None else batch.id
    return GenerationRequest(batch_id, client_id or uuid4(), options.code_format, options.count, cli_actor())


def _describe_start(job: Job, abandoned: bool) -> str:
    if abandoned:
        return f"continuing job {job.id}: an earlier run of this command was interrupted"
    return f"job {job.id}; if interrupted, repeat the command or run: issuer generate --job {job.id}"


async def _continue_job(stores: Stores, job_id: UUID, *, as_json: bool) -> None:
    from issuer.generating.jobs import JobNotFoundError, find_job

    try:
        job = await find_job(stores.postgres, job_id)
    except JobNotFoundError as error:
        raise InputError(str(error)) from error
    await _finish(stores, job, new=False, as_json=as_json)


async def _finish(stores: Stores, job: Job, *, new: bool, as_json: bool) -> None:
    from issuer.generating.job_runner import finish_job
    from issuer.generating.jobs import mark_announced
    from issuer.pools.memory import RedisMemoryError
    from issuer.pools.pool import PoolError
    from issuer.pools.stock import batch_stock

    started = time.monotonic()
    try:
        with progress_bars(None, silent=as_json) as progress:
            job = await finish_job(stores, job.id, progress=progress)
    except (PoolError, RedisMemoryError) as error:
        raise CommandError(f"{error}. The worker will continue the job; or run the same command again.") from error
    (stock,) = await batch_stock(stores, job.request.batch_id, client_id=job.request.client_id)
    _show(job, stock, new=new, seconds=time.monotonic() - started, as_json=as_json)
    await mark_announced(stores.postgres, job.id)
    if job.problem is not None:
        raise CommandError(f"{job.made:,} of {job.request.count:,} codes were generated: {job.problem}")


def _show(job: Job, stock: Stock, *, new: bool, seconds: float, as_json: bool) -> None:
    from issuer.clients.registry import client_label

    warning = job.request.code_format.check_space(job.request.count)
    if as_json:
        report = {"new_batch": new, "total": stock.total, "in_redis": stock.in_redis, "warning": warning}
        print_json({**job.to_json(), **report, **_space(job.request), "seconds": round(seconds, 3)})
        return
    typer.echo(f"batch      {job.request.batch_id}{' (new)' if new else ''}")
    typer.echo(f"client     {visible(client_label(job.request.client_id, job.client_name))}")
    typer.echo(f"generated  {job.made:>14,}")
    typer.echo(f"total      {stock.total:>14,}")
    if stock.in_redis is not None:
        typer.echo(f"in Redis   {stock.in_redis:>14,}")
    for line in _space_lines(job.request, warning):
        typer.echo(line)
    rate = f" ({job.made / seconds:,.0f} codes/s)" if seconds else ""
    typer.echo(f"seconds    {seconds:>14,.1f}{rate}")


async def _show_forecast(stores: Stores, request: GenerationRequest, batch: Batch | None, *, as_json: bool) -> None:
    from issuer.generating.code_source import CodeSource
    from issuer.generating.request import GenerationForecast, check_request, estimate_redis_bytes
    from issuer.pools.memory import check_room

    if batch is not None:
        forecast = await check_request(stores, request)
    else:
        forecast = GenerationForecast(
            request.code_format.check_space(request.count), await estimate_redis_bytes(stores, request)
        )
        await check_room(stores.redis, forecast.redis_bytes)
    examples = CodeSource(request.code_format).draw(min(MAX_EXAMPLES, request.count))
    if as_json:
        print_json(
            {
                "dry_run": True,
                "batch_id": None if batch is None else batch.id,
                "count": request.count,
                "format": request.code_format.to_json(),
                **_space(request),
                "warning": forecast.warning,
                "redis_bytes": forecast.redis_bytes,
                "examples": list(examples),
            }
        )
        return
    typer.echo(f"batch      {'(would be created)' if batch is None else batch.id}")
    typer.echo(f"would add  {request.count:>14,}, such as {', '.join(examples)}")
    for line in _space_lines(request, forecast.warning):
        typer.echo(line)
    typer.echo(f"Redis      {forecast.redis_bytes / 1e6:>14,.2f} MB (estimate)")


def _space(request: GenerationRequest) -> dict[str, str]:
    """Return the size of the code space as text: the numbers are too large for many JSON parsers."""
    space = request.code_format.space
    return {"space": str(space), "one_code_in": str(space // request.count)}


def _space_lines(request: GenerationRequest, warning: str | None) -> Iterator[str]:
    space = request.code_format.space
    size = f"{space:,}" if space < 10**15 else f"about 10^{len(str(space)) - 1}"
    yield f"of         {size:>14} codes of this format"
    if warning is not None:
        yield f"warning: {warning}"

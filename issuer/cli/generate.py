"""`issuer generate`: codes made by the machine, into a batch."""

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
    uuid_option,
)
from issuer.cli.output import BAD_INPUT, CommandError, InputError, fail, print_json, run
from issuer.cli.progress import progress_bars
from issuer.generating.code_format import MAX_CODES, CodeFormat, CodeFormatError, CodeSpaceError, parse_code_format
from issuer.generating.unlucky import WordsError, parse_words

if TYPE_CHECKING:
    from issuer.batches.store import Batch
    from issuer.generating.jobs import GenerationRequest, Job
    from issuer.pools.stock import Stock
    from issuer.storage.stores import Stores

EXAMPLES: Final = 3
_OPTIONS: Final = {"client_id": "--client", "unlucky_words": "--unlucky-words"}
"""Fields that the options call otherwise."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What the operator asked for."""

    chosen: ChosenBatch
    client_id: UUID | None
    code_format: CodeFormat
    count: int
    job_id: UUID | None
    dry_run: bool


def register(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    count: int | None = typer.Option(None, min=1, max=MAX_CODES, help="How many codes."),
    length: int | None = typer.Option(None, help="Drawn characters of a code; 12 if there is no pattern."),
    batch_name: str | None = BATCH_NAME,
    batch_id: str | None = BATCH_ID,
    client: str | None = typer.Option(
        None, help="Client whose codes they are; without it the only one of the batch, or a new one."
    ),
    rules: str | None = RULES,
    starts_at: str | None = STARTS_AT,
    ends_at: str | None = ENDS_AT,
    prefix: str | None = typer.Option(None, help="Text before the drawn characters."),
    suffix: str | None = typer.Option(None, help="Text behind them."),
    pattern: str | None = typer.Option(None, help="Instead of the three: # is a drawn character, SUMMER-####-####."),
    alphabet: str | None = typer.Option(
        None,
        help="numeric, alphabetic, alphanumeric, unambiguous (no 0 O 1 I L U), or the characters themselves; "
        "unambiguous if not given.",
    ),
    check: bool = typer.Option(False, "--check", help="Make the last drawn character a check character (Luhn mod N)."),
    no_unlucky: bool = typer.Option(
        False, "--no-unlucky", help="Do not leave out codes with words of the built-in list."
    ),
    unlucky_words: Path | None = typer.Option(None, metavar="FILE", help="Leave out these words too, one a line."),
    job: str | None = typer.Option(
        None, help="Id of a job to go on with, or for the new one: given again it adds nothing."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, show examples, change nothing."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Generate random codes and load them.

    Killed and run again, the same command finishes what it began; finished, it makes as many codes again. Exit codes:
    0 done; 1 failed; 2 impossible as asked.
    """
    try:
        job_id = uuid_option(job, "--job")
        if count is None:
            if job_id is None:
                raise InputError("--count is needed, or --job to go on with")
            run(lambda stores: _go_on(stores, job_id, as_json=as_json))
            return
        request = GenerateOptions(
            chosen=ChosenBatch.of(name=batch_name, id=batch_id, rules=rules, starts_at=starts_at, ends_at=ends_at),
            client_id=uuid_option(client, "--client"),
            code_format=_format(
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
        run(lambda stores: _work(stores, request, as_json=as_json))
    except CodeFormatError as error:
        fail(f"{_OPTIONS.get(error.field, f'--{error.field}')}{str(error).removeprefix(error.field)}", BAD_INPUT)
    except InputError as error:
        fail(str(error), BAD_INPUT)


def _format(words: Path | None, **values: object) -> CodeFormat:
    try:
        own = None if words is None else parse_words(words.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {words}: {error}") from error
    except WordsError as error:
        raise CodeFormatError("unlucky_words", str(error)) from error
    return parse_code_format({**values, "unlucky_words": own})


async def _work(stores: Stores, request: GenerateOptions, *, as_json: bool) -> None:
    from issuer.batches.store import BatchEndedError, BatchNotFoundError
    from issuer.generating.command_job import command_job
    from issuer.generating.drawing import FewCodesError
    from issuer.generating.jobs import JobIdReusedError
    from issuer.pools.memory import RedisMemoryError

    batch: Batch | None = None
    new = False
    try:
        # Before a batch is made.
        request.code_format.check_space(request.count)
        batch, new = await request.chosen.find_or_create(stores, dry_run=request.dry_run)
        order = await _order(stores, request, batch)
        if request.dry_run:
            await _show_outlook(stores, order, batch, as_json=as_json)
            return
        async with command_job(stores, order, job_id=request.job_id) as (job, left_behind):
            typer.echo(_begun(job, left_behind), err=True)
            await _finish(stores, job, new=new, as_json=as_json)
    except (BatchNotFoundError, BatchEndedError, CodeSpaceError, FewCodesError, JobIdReusedError) as error:
        await end_if_empty(stores, batch, new)
        raise InputError(str(error)) from error
    except CodeFormatError:
        await end_if_empty(stores, batch, new)
        raise
    except RedisMemoryError as error:
        await end_if_empty(stores, batch, new)
        raise CommandError(f"nothing was generated: {error}") from error


async def _order(stores: Stores, request: GenerateOptions, batch: Batch | None) -> GenerationRequest:
    from issuer.access.audit import cli_actor
    from issuer.generating.jobs import GenerationRequest, only_client

    client_id = request.client_id
    if client_id is None and batch is not None:
        client_id = await only_client(stores.postgres, batch.id)
    batch_id = UUID(int=0) if batch is None else batch.id
    return GenerationRequest(batch_id, client_id or uuid4(), request.code_format, request.count, cli_actor())


def _begun(job: Job, left_behind: bool) -> str:
    if left_behind:
        return f"going on with job {job.id}, which nobody was told the end of"
    return f"job {job.id}; after an interruption the same command goes on, or: issuer generate --job {job.id}"


async def _go_on(stores: Stores, job_id: UUID, *, as_json: bool) -> None:
    from issuer.generating.jobs import JobNotFoundError, find_job

    try:
        job = await find_job(stores.postgres, job_id)
    except JobNotFoundError as error:
        raise InputError(str(error)) from error
    await _finish(stores, job, new=False, as_json=as_json)


async def _finish(stores: Stores, job: Job, *, new: bool, as_json: bool) -> None:
    from issuer.generating.jobs import mark_told
    from issuer.generating.making import finish_job
    from issuer.pools.memory import RedisMemoryError
    from issuer.pools.pool import PoolError
    from issuer.pools.stock import batch_stock

    started = time.monotonic()
    try:
        with progress_bars(None, silent=as_json) as progress:
            job = await finish_job(stores, job.id, progress=progress)
    except (PoolError, RedisMemoryError) as error:
        raise CommandError(f"{error}. The worker goes on with the job, or run the same command again.") from error
    (stock,) = await batch_stock(stores, job.order.batch_id, client_id=job.order.client_id)
    _show(job, stock, new=new, seconds=time.monotonic() - started, as_json=as_json)
    await mark_told(stores.postgres, job.id)
    if job.problem is not None:
        raise CommandError(f"{job.made:,} of {job.order.count:,} codes were made: {job.problem}")


def _show(job: Job, stock: Stock, *, new: bool, seconds: float, as_json: bool) -> None:
    warning = job.order.code_format.check_space(job.order.count)
    if as_json:
        report = {"new_batch": new, "total": stock.total, "in_redis": stock.in_redis, "warning": warning}
        print_json({**job.to_json(), **report, **_space(job.order), "seconds": round(seconds, 3)})
        return
    typer.echo(f"batch      {job.order.batch_id}{' (new)' if new else ''}")
    typer.echo(f"client     {job.order.client_id}")
    typer.echo(f"generated  {job.made:>14,}")
    typer.echo(f"in all     {stock.total:>14,}")
    if stock.in_redis is not None:
        typer.echo(f"in Redis   {stock.in_redis:>14,}")
    for line in _space_lines(job.order, warning):
        typer.echo(line)
    rate = f" ({job.made / seconds:,.0f} codes/s)" if seconds else ""
    typer.echo(f"seconds    {seconds:>14,.1f}{rate}")


async def _show_outlook(stores: Stores, order: GenerationRequest, batch: Batch | None, *, as_json: bool) -> None:
    from issuer.generating.drawing import CodeSource
    from issuer.generating.jobs import GenerationForecast, check_order, redis_bytes
    from issuer.pools.memory import check_room

    if batch is not None:
        outlook = await check_order(stores, order)
    else:
        outlook = GenerationForecast(order.code_format.check_space(order.count), await redis_bytes(stores, order))
        await check_room(stores.redis, outlook.redis_bytes)
    examples = CodeSource(order.code_format).draw(min(EXAMPLES, order.count))
    if as_json:
        print_json(
            {
                "dry_run": True,
                "batch_id": None if batch is None else batch.id,
                "count": order.count,
                "format": order.code_format.to_json(),
                **_space(order),
                "warning": outlook.warning,
                "redis_bytes": outlook.redis_bytes,
                "examples": list(examples),
            }
        )
        return
    typer.echo(f"batch      {'(would be made)' if batch is None else batch.id}")
    typer.echo(f"would make {order.count:>14,}, such as {', '.join(examples)}")
    for line in _space_lines(order, outlook.warning):
        typer.echo(line)
    typer.echo(f"Redis      {outlook.redis_bytes / 1e6:>14,.2f} MB (estimate)")


def _space(order: GenerationRequest) -> dict[str, str]:
    """As text: these numbers are larger than what JSON readers take."""
    space = order.code_format.space
    return {"space": str(space), "one_guess_in": str(space // order.count)}


def _space_lines(order: GenerationRequest, warning: str | None) -> Iterator[str]:
    space = order.code_format.space
    shown = f"{space:,}" if space < 10**15 else f"about 10^{len(str(space)) - 1}"
    yield f"of         {shown:>14} codes of this form"
    if warning is not None:
        yield f"warning: {warning}"

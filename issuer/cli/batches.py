"""`issuer batches`: list, show, export, create, pause, resume and end batches, and change their rules."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import typer

from issuer.batches.rules import RulesError, parse_rules_text
from issuer.cli.export import add_export
from issuer.cli.options import AS_JSON, instant_option
from issuer.cli.output import BAD_INPUT, InputError, fail, print_json, print_list, run
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.batches.store import Batch
    from issuer.pools.stock import Stock
    from issuer.storage.stores import Stores

T = TypeVar("T")

commands = typer.Typer(help="List, show, export, create, pause, change and end batches.", no_args_is_help=True)

BATCH = typer.Argument(..., metavar="BATCH", help="Id of the batch, or its name if no other batch has it.")
RULES_HELP = 'Rules as JSON, such as {"maxpercustomer":2,"timelimit":30}.'


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="batches")


@commands.command("list")
def list_command(
    everything: bool = typer.Option(False, "--all", help="Include expired batches."), as_json: bool = AS_JSON
) -> None:
    """List the batches that have not expired."""
    from issuer.batches.store import list_batches, open_batches

    async def work(stores: Stores) -> None:
        async def page(cursor: str | None) -> Page[Batch]:
            return await list_batches(stores.postgres, limit=MAX_LIMIT, cursor=cursor)

        chunks = all_items(page) if everything else open_batches(stores.postgres)
        await print_list(
            chunks,
            as_json=as_json,
            to_json=lambda batch: batch.to_json(),
            line=lambda batch: f"{batch.id}  {_state(batch):<8}  {visible(batch.name)}",
        )

    run(work)


add_export(commands, "batches")


@commands.command()
def show(batch: str = BATCH, as_json: bool = AS_JSON) -> None:
    """Show a batch and the stock of each client."""
    from issuer.pools.stock import batch_stock

    async def work(stores: Stores) -> tuple[Batch, list[Stock]]:
        shown = await _find(stores, batch)
        return shown, await batch_stock(stores, shown.id)

    shown, stock = run(_report_refusals(work))
    if as_json:
        print_json(shown.to_json() | {"stock": [pool.to_json() for pool in stock]})
        return
    _print_batch(shown)
    for pool in stock:
        figures = {
            name: "?" if value is None else value for name, value in pool.to_json().items() if name != "client_id"
        }
        typer.echo(f"client {pool.client_id}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))


@commands.command()
def create(
    name: str = typer.Option(..., help="Name of the batch."),
    rules: str = typer.Option("", help=RULES_HELP),
    starts_at: str | None = typer.Option(None, help="No code is issued before this time; ISO 8601 with an offset."),
    ends_at: str | None = typer.Option(None, help="No code is issued from this time on; ISO 8601 with an offset."),
    as_json: bool = AS_JSON,
) -> None:
    """Create an empty batch; `issuer preload` fills it."""
    from issuer.access.audit import cli_actor
    from issuer.batches.store import create_batch

    async def work(stores: Stores) -> Batch:
        return await create_batch(
            stores,
            name=name,
            rules=parse_rules_text(rules),
            starts_at=instant_option(starts_at, "--starts-at"),
            ends_at=instant_option(ends_at, "--ends-at"),
            actor=cli_actor(),
        )

    _show_result(run(_report_refusals(work)), as_json)


@commands.command()
def expire(batch: str = BATCH, as_json: bool = AS_JSON) -> None:
    """End a batch. This is final: its remaining codes are never issued."""
    _change(batch, {"expired": True}, as_json)


@commands.command()
def pause(batch: str = BATCH, as_json: bool = AS_JSON) -> None:
    """Issue no codes until the batch is resumed."""
    _change(batch, {"paused": True}, as_json)


@commands.command()
def resume(batch: str = BATCH, as_json: bool = AS_JSON) -> None:
    """Issue codes again after a pause."""
    _change(batch, {"paused": False}, as_json)


@commands.command("set-rules")
def set_rules(
    batch: str = BATCH, rules: str = typer.Argument(..., metavar="RULES", help=RULES_HELP), as_json: bool = AS_JSON
) -> None:
    """Replace the rules of a batch. New limits also count earlier redemptions."""
    try:
        parsed = parse_rules_text(rules)
    except RulesError as error:
        fail(str(error), BAD_INPUT)
    _change(batch, {"rules": parsed}, as_json)


def _change(batch: str, values: dict[str, Any], as_json: bool) -> None:
    from issuer.access.audit import cli_actor
    from issuer.batches.store import BatchChanges, BatchEndedError, change_batch

    changes = BatchChanges(**values)

    async def work(stores: Stores) -> Batch:
        current = await _find(stores, batch)
        if current.ended_at is not None and not changes.expired:
            # Refuse it even if nothing would change: an operator who resumes a batch expects it to issue codes.
            raise BatchEndedError("the batch was ended; that is final")
        return await change_batch(stores, current.id, changes, actor=cli_actor())

    _show_result(run(_report_refusals(work)), as_json)


async def _find(stores: Stores, batch: str) -> Batch:
    from issuer.batches.store import find_batch, find_batches_by_name

    try:
        batch_id = UUID(batch)
    except ValueError:
        named = await find_batches_by_name(stores.postgres, batch)
        if not named:
            raise InputError(f"no batch found with the id or name {batch!r} (give the id of an ended batch)") from None
        if len(named) > 1:
            ids = ", ".join(str(one.id) for one in named)
            raise InputError(f"{len(named)} batches have the name {batch!r}: {ids}") from None
        return named[0]
    return await find_batch(stores.postgres, batch_id)


def _report_refusals(work: Callable[[Stores], Awaitable[T]]) -> Callable[[Stores], Awaitable[T]]:
    """Return the work with refusals that the operator can correct turned into InputError."""

    async def checked(stores: Stores) -> T:
        from issuer.batches.store import BatchEndedError, BatchNotFoundError, InvalidBatchError

        try:
            return await work(stores)
        except (BatchEndedError, BatchNotFoundError, InvalidBatchError, RulesError) as error:
            raise InputError(str(error)) from error

    return checked


def _show_result(batch: Batch, as_json: bool) -> None:
    if as_json:
        print_json(batch.to_json())
    else:
        _print_batch(batch)


def _state(batch: Batch) -> str:
    if batch.ended_at is not None:
        return "ended"
    if batch.expired:
        return "expired"
    return "paused" if batch.paused else "open"


def _print_batch(batch: Batch) -> None:
    fields = batch.to_json()
    typer.echo(f"batch {batch.id}: {visible(batch.name)} ({_state(batch)})")
    typer.echo(f"rules {json.dumps(fields['rules'])}")
    for name in ("starts_at", "ends_at", "ended_at"):
        if fields[name]:
            typer.echo(f"{name} {fields[name]}")

"""`issuer batches`: list, show, export, create, pause, resume and end batches, and change their rules."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from issuer.batches.batch import NewBatch
from issuer.batches.rules import RulesError, parse_rules_text
from issuer.cli.chosen_batch import BATCH, named_batch
from issuer.cli.export import add_export
from issuer.cli.options import AS_JSON, client_option, instant_option, uuid_option
from issuer.cli.output import BAD_INPUT, InputError, fail, print_json, print_list, run
from issuer.cli.tables import print_table, shown_time
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.batches.store import Batch
    from issuer.pools.stock import Stock
    from issuer.storage.stores import Stores

T = TypeVar("T")

commands = typer.Typer(help="List, show, export, create, pause, change and end batches.", no_args_is_help=True)

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
            headers=("id", "state", "starts", "ends", "name"),
            row=lambda batch: (
                str(batch.id),
                _state(batch),
                shown_time(batch.starts_at),
                shown_time(batch.ends_at),
                batch.name,
            ),
            empty="no batches yet: see `issuer preload --help` and `issuer generate --help`",
        )

    run(work)


add_export(commands, "batches")


@commands.command()
def show(batch: str = BATCH, as_json: bool = AS_JSON) -> None:
    """Show a batch and the stock of each client."""
    from issuer.pools.stock import batch_stock

    async def work(stores: Stores) -> tuple[Batch, list[Stock]]:
        shown = await named_batch(stores.postgres, batch)
        return shown, await batch_stock(stores, shown.id)

    shown, stock = run(_report_refusals(work))
    if as_json:
        print_json(shown.to_json() | {"stock": [pool.to_json() for pool in stock]})
        return
    _print_batch(shown)
    names = ("total", "in_redis", "issued", "ledger", "backlog", "quarantined", "dead_letters")
    rows = [(str(pool.client_id), pool.client_name or "-", *(getattr(pool, name) for name in names)) for pool in stock]
    print_table(("client", "name", *names), rows, empty="no codes yet: see `issuer preload --help`")


@commands.command()
def create(
    name: str = typer.Option(..., help="Name of the batch."),
    batch_id: str | None = typer.Option(None, "--id", help="Id of the batch (UUID); default: a random one."),
    client: str | None = typer.Option(None, help="Client that sees the batch before it has codes."),
    rules: str = typer.Option("", help=RULES_HELP),
    starts_at: str | None = typer.Option(None, help="No code is issued before this time; ISO 8601 with an offset."),
    ends_at: str | None = typer.Option(None, help="No code is issued from this time on; ISO 8601 with an offset."),
    as_json: bool = AS_JSON,
) -> None:
    """Create an empty batch; `issuer preload` fills it."""
    from issuer.access.audit import cli_actor
    from issuer.batches.store import create_batch

    async def work(stores: Stores) -> Batch:
        new = NewBatch(
            name,
            parse_rules_text(rules),
            instant_option(starts_at, "--starts-at"),
            instant_option(ends_at, "--ends-at"),
            uuid_option(batch_id, "--id"),
        )
        return await create_batch(
            stores, new, client_id=await client_option(stores.postgres, client), actor=cli_actor()
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
        current = await named_batch(stores.postgres, batch)
        if current.ended_at is not None and not changes.expired:
            # Refuse it even if nothing would change: an operator who resumes a batch expects it to issue codes.
            raise BatchEndedError("the batch was ended; that is final")
        return await change_batch(stores, current.id, changes, actor=cli_actor())

    _show_result(run(_report_refusals(work)), as_json)


def _report_refusals(work: Callable[[Stores], Awaitable[T]]) -> Callable[[Stores], Awaitable[T]]:
    """Return the work with refusals that the operator can correct turned into InputError."""

    async def checked(stores: Stores) -> T:
        from issuer.batches.store import BatchEndedError, BatchIdTakenError, BatchNotFoundError, InvalidBatchError

        try:
            return await work(stores)
        except (BatchEndedError, BatchIdTakenError, BatchNotFoundError, InvalidBatchError, RulesError) as error:
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

"""`issuer redemptions`: export the ledger, and erase a customer's id from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from issuer.cli.export import add_export
from issuer.cli.options import AS_JSON
from issuer.cli.output import CommandError, InputError, command_settings, print_json, run
from issuer.ids import InvalidIdError

if TYPE_CHECKING:
    from issuer.ledger.erasure import Erasure
    from issuer.storage.stores import Stores

commands = typer.Typer(help="Export redemptions, and erase a customer's id from them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="redemptions")


add_export(commands, "redemptions")


@commands.command("erase-customer")
def erase_customer(
    customer: str = typer.Argument(..., metavar="CUSTOMER", help="Id of the customer, as callers give it."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask for confirmation."),
    as_json: bool = AS_JSON,
) -> None:
    """Erase a customer's id from the ledger. The redemptions stay, but limits no longer count them."""
    from issuer.access.audit import cli_actor
    from issuer.ledger.erasure import BacklogNotEmptyError
    from issuer.ledger.erasure import erase_customer as erase

    settings = command_settings()
    if not yes:
        typer.confirm("This cannot be undone. Erase the id?", abort=True, err=True)

    async def work(stores: Stores) -> Erasure:
        try:
            return await erase(stores, stores.identity(customer).uuid, actor=cli_actor())
        except InvalidIdError as error:
            raise InputError(f"CUSTOMER: {error}") from error
        except BacklogNotEmptyError as error:
            raise CommandError(f"nothing was erased: {error}") from error

    erasure = run(work, settings=settings)
    if as_json:
        print_json(asdict(erasure))
    else:
        uses = f" and {erasure.consumptions} uses of coupons" if erasure.consumptions else ""
        typer.echo(f"erased from {erasure.redemptions} redemptions{uses} in {erasure.batches} batches")
    if erasure.dead_letters:
        typer.echo(
            f"{erasure.dead_letters} dead letters still have the id: resolve them, then repeat the command", err=True
        )

"""The operator's commands. Each module registers its own commands and calls the modules of the service."""

from __future__ import annotations

import typer

from issuer import __version__
from issuer.cli import (
    audit,
    batches,
    campaigns,
    clients,
    coupons,
    dead_letters,
    generate,
    keys,
    maintenance,
    migrate,
    preload,
    reconcile,
    recover,
    redemptions,
    secrets,
    serve,
    up,
)

app = typer.Typer(
    name="issuer",
    help="Issues unique codes at the speed of Redis, with the bookkeeping of Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"issuer {__version__}")
        raise typer.Exit


@app.callback()
def issuer(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


_MODULES = (
    up, serve, migrate, preload, generate, batches, campaigns, clients, coupons, keys, redemptions, reconcile,
    dead_letters, audit, maintenance, recover, secrets,
)  # fmt: skip
for _module in _MODULES:
    _module.register(app)

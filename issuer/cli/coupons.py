"""`issuer coupons` and `issuer consumptions`: export coupons and their uses."""

from __future__ import annotations

import typer

from issuer.cli.export import add_export

coupons = typer.Typer(help="Export coupons.", no_args_is_help=True)
consumptions = typer.Typer(help="Export uses of coupons.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(coupons, name="coupons")
    app.add_typer(consumptions, name="consumptions")


add_export(coupons, "coupons")
add_export(consumptions, "consumptions")


@coupons.callback()
@consumptions.callback()
def _keep_group() -> None:
    """Keep the name of the command: without a callback, typer merges a group with its only command."""

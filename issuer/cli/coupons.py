"""`issuer coupons` and `issuer consumptions`: export them."""

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
def _with_a_name() -> None:
    """A group that has one command would be that command."""

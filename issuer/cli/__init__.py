"""The operator's commands. Each module registers its own commands and calls the modules of the service."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from issuer import __version__
from issuer.cli.output import BAD_INPUT, FAILED, print_error

MODULES: Final = {
    "up": "up",
    "status": "status",
    "serve": "serve",
    "migrate": "migrate",
    "preload": "preload",
    "generate": "generate",
    "batches": "batches",
    "campaigns": "campaigns",
    "coupons": "coupons",
    "loyalty": "loyalty",
    "consumptions": "coupons",
    "clients": "clients",
    "jobs": "jobs",
    "import": "importing",
    "keys": "keys",
    "operators": "operators",
    "console-link": "operators",
    "redemptions": "redemptions",
    "reconcile": "reconcile",
    "dead-letters": "dead_letters",
    "audit": "audit",
    "maintenance": "maintenance",
    "backup": "backup",
    "restore": "backup",
    "recover": "recover",
    "doctor": "recover",
    "max-backlog": "recover",
    "quarantine": "recover",
    "journal": "recover",
    "secrets": "secrets",
}
"""The commands in the order of `issuer --help`, and the module that registers each."""


LOGGING: Final = ("up", "serve")
"""Commands that log what others print: they report misspelt variables in the log."""


class LazyGroup(TyperGroup):
    """The commands of MODULES. A module is imported when one of its commands is used: all of them take half a second.

    Errors of usage look as all errors do: `error: …`, then `hint: …`, and exit code 2.
    """

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        # With every name, so that a misspelt one finds the nearest.
        self.commands: Any = dict.fromkeys(MODULES)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in MODULES and self.commands[cmd_name] is None:
            loaded = typer.Typer(rich_markup_mode=None)
            import_module(f"{__name__}.{MODULES[cmd_name]}").register(loaded)
            # A callback keeps a module with a single command a group.
            loaded.callback()(lambda: None)
            self.commands.update(typer.main.get_group(loaded).commands)
        return self.commands.get(cmd_name)

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        try:
            status = super().main(args, prog_name, *rest, **extra | {"standalone_mode": False})
        except typer.Abort:
            print_error("not confirmed; nothing was changed")
            status = FAILED
        except TyperException as error:
            _print_usage_error(error)
            status = BAD_INPUT
        sys.exit(status)


def _print_usage_error(error: Any) -> None:
    text = error.format_message()
    if text.startswith("Usage:"):
        # The help of a group that was called without a command.
        typer.echo(text, err=True)
    else:
        print_error(text, hint=None if error.ctx is None else f"{error.ctx.command_path} --help")


app = typer.Typer(
    name="issuer",
    cls=LazyGroup,
    help="Issues unique codes at the speed of Redis, with the bookkeeping of Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"issuer {__version__}")
        raise typer.Exit


@app.callback()
def issuer(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    if context.invoked_subcommand not in LOGGING:
        from issuer.misspelt import unknown_variables

        for line in unknown_variables():
            typer.echo(f"warning: {line}", err=True)

"""`issuer loyalty …`: one module per subject, each of which adds its group of commands."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

SUBJECTS: Final = ("programs", "members", "cards", "entries", "rewards", "hooks", "staff", "login_code")
"""The groups in the order of `issuer loyalty --help`, which are the modules of this package that register them."""


def register(app: typer.Typer) -> None:
    commands = typer.Typer(help="Points: programs, members, and the entries of their accounts.", no_args_is_help=True)
    for subject in SUBJECTS:
        import_module(f"{__name__}.{subject}").register(commands)
    app.add_typer(commands, name="loyalty")

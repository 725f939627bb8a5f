"""`issuer backup`: a copy of the installation, made while it serves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import INTERRUPTED, command_settings, fail, print_json

if TYPE_CHECKING:
    from issuer.settings import Settings


def register(app: typer.Typer) -> None:
    @app.command()
    def backup(
        directory: Path = typer.Argument(help="Directory of the backups; each is a directory in it."),
        keep: int = typer.Option(7, "--keep", min=1, help="Backups to keep; older ones are removed."),
        as_json: bool = AS_JSON,
    ) -> None:
        """Back up Postgres and the secrets and settings that belong to it, while everything runs.

        Redis is rebuilt from Postgres. A backup has its name once it is complete, and only its owner can read it.
        """
        from issuer.backups.backup import BackupError, create_backup

        settings = command_settings()
        try:
            made = create_backup(settings, directory.expanduser().absolute(), keep=keep, secrets=_secrets(settings))
        except BackupError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        if as_json:
            print_json(asdict(made))
        else:
            typer.echo(f"{made.path}: {made.size_bytes:,} bytes; {len(made.removed)} older removed")


def _secrets(settings: Settings) -> dict[str, str]:
    """Return the secrets of this installation by the names of their files in the data directory of `issuer up`."""
    from issuer.embedded.datadir import DataDirectory

    found = {}
    if settings.secret_key is not None:
        found["secret-key"] = settings.secret_key.get_secret_value() + "\n"
    directory = DataDirectory(settings.data_dir)
    running = directory.running()
    if running is not None and running.owner_database_url == settings.database_url.get_secret_value():
        with suppress(FileNotFoundError):
            found["api-key"] = directory.api_key.read_text()
    return found

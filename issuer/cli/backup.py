"""`issuer backup` and `issuer restore`: a copy of the installation, made while it serves, and what is made of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import (
    INTERRUPTED,
    CommandError,
    command_settings,
    environment_settings,
    fail,
    print_json,
    run_plain,
)

if TYPE_CHECKING:
    from issuer.backups.directory import BackupDirectory
    from issuer.backups.restore import Restored
    from issuer.embedded.datadir import DataDirectory
    from issuer.settings import Settings

SERVERS: Final = frozenset({"redis_url", "database_url"})


def register(app: typer.Typer) -> None:
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    directory: Path = typer.Argument(help="Directory of the backups; each is a directory in it."),
    keep: int = typer.Option(7, "--keep", min=1, help="Backups to keep; older ones are removed."),
    as_json: bool = AS_JSON,
) -> None:
    """Back up the installation while it serves: Postgres, the backlog of Redis, receipt journals, secrets, settings.

    Everything that was answered before it began is in it. A backup has its name once it is complete, and only its owner
    can read it.
    """
    from issuer.backups.backup import Backup, create_backup
    from issuer.backups.directory import BackupError

    settings = command_settings()
    path = directory.expanduser().absolute()

    async def work() -> Backup:
        try:
            return await create_backup(settings, path, keep=keep, secrets=_secrets(settings))
        except BackupError as error:
            raise CommandError(str(error)) from error

    made = run_plain(work, settings=settings)
    if as_json:
        print_json(asdict(made))
    else:
        backlog = "without the backlog of Redis" if made.backlog is None else f"{made.backlog:,} from Redis' backlog"
        typer.echo(f"{made.path}: {made.size_bytes:,} bytes, {backlog}; {len(made.removed)} older removed")


def _secrets(settings: Settings) -> dict[str, str]:
    """Return the secrets of this installation by the names of their files in the data directory of `issuer up`."""
    from issuer.backups.directory import API_KEY, SECRET_KEY
    from issuer.embedded.datadir import DataDirectory

    found = {}
    if settings.secret_key is not None:
        found[SECRET_KEY] = settings.secret_key.get_secret_value() + "\n"
    directory = DataDirectory(settings.data_dir)
    running = directory.running()
    if running is not None and running.owner_database_url == settings.database_url.get_secret_value():
        with suppress(FileNotFoundError):
            found[API_KEY] = directory.api_key.read_text()
    return found


def restore(
    path: Path = typer.Argument(metavar="BACKUP", help="One backup: a directory issuer-TIME."),
    margin: int = typer.Option(
        0, "--margin", min=0, help="Quarantine at least this many codes of each pool; it can only raise the number."
    ),
    data_dir: Path | None = typer.Option(None, help="Data directory [ISSUER_DATA_DIR, .issuer]."),
    as_json: bool = AS_JSON,
) -> None:
    """Restore a backup into an empty installation: that of `issuer up`, or the servers that the environment names.

    Nothing may run there. What may have been issued since the backup is quarantined. Repeat a restore that was stopped.
    """
    from issuer.backups.directory import BackupError, open_backup

    settings = environment_settings(data_dir=data_dir)
    try:
        opened = open_backup(path.expanduser().absolute())
    except BackupError as error:
        fail(str(error))
    of_own = settings.model_fields_set >= SERVERS
    restored = _restore(settings, opened, margin, None if of_own else _directory_of(settings))
    if restored is None:
        fail("interrupted; repeat the command", INTERRUPTED)
    if as_json:
        print_json(asdict(restored))
    else:
        _print_restored(restored, opened, of_own=of_own)


def _directory_of(settings: Settings) -> DataDirectory:
    from issuer.embedded.datadir import DataDirectory

    return DataDirectory(settings.data_dir)


def _restore(
    settings: Settings, backup: BackupDirectory, margin: int, directory: DataDirectory | None
) -> Restored | None:
    """Restore with the servers of `issuer up` in `directory`, or with those of the settings. None: interrupted."""
    from issuer.backups.directory import BackupError
    from issuer.backups.restore import restore_backup
    from issuer.embedded.binaries import MissingBinaryError
    from issuer.embedded.datadir import DataDirectoryError
    from issuer.embedded.supervisor import Supervisor
    from issuer.processes.children import ChildError

    found: list[Restored] = []

    async def work(servers: Settings) -> None:
        found.append(await restore_backup(servers, backup, margin=margin, directory=directory))

    async def run() -> None:
        try:
            if directory is None:
                await work(settings)
            else:
                await Supervisor(settings).run_with_servers(work)
        except (BackupError, MissingBinaryError, ChildError, DataDirectoryError) as error:
            raise CommandError(str(error)) from error

    run_plain(run, settings=settings)
    return found[0] if found else None


def _print_restored(restored: Restored, backup: BackupDirectory, *, of_own: bool) -> None:
    from issuer.backups.directory import SECRET_KEY, SETTINGS

    typer.echo(f"restored the backup of {restored.created_at}: {restored.ledger:,} redemptions, epoch {restored.epoch}")
    typer.echo(f"  of them {restored.receipts:,} from the backlog and receipt journals")
    quarantined = f"{restored.quarantined:,} codes of {restored.pools:,} pools"
    typer.echo(f"  quarantined: {quarantined}, which may have been issued since")
    if restored.rejected:
        typer.echo(f"  left out: {restored.rejected:,} receipts that do not fit the dump")
    for problem in restored.problems:
        typer.echo(f"  problem: {problem}")
    typer.echo(f"Then: load the settings of {backup.path / SETTINGS}, and start the service.")
    if of_own and SECRET_KEY in backup.secrets():
        typer.echo(f"Set ISSUER_SECRET_KEY to the content of {backup.path / SECRET_KEY}.")

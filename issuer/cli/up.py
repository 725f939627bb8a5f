"""`issuer up`: run everything in one foreground command, with embedded servers in a data directory."""

from __future__ import annotations

from pathlib import Path

import typer

from issuer.cli.output import CommandError, environment_settings
from issuer.settings import Auth, Settings


def register(app: typer.Typer) -> None:
    @app.command()
    def up(
        demo: bool = typer.Option(False, "--demo", help="Create a small demo batch, once."),
        data_dir: Path | None = typer.Option(None, help="Data directory [ISSUER_DATA_DIR, .issuer]."),
        host: str | None = typer.Option(None, help="Address to listen on [ISSUER_HOST, 127.0.0.1]."),
        port: int | None = typer.Option(None, help="Port to listen on; 0: a free one [ISSUER_PORT, 8000]."),
        workers: int | None = typer.Option(None, help="API processes [ISSUER_WORKERS, 1]."),
        auth: Auth | None = typer.Option(None, help="Check API keys [ISSUER_AUTH, on]."),
    ) -> None:
        """Run Redis, Postgres, the HTTP service and the sync worker until Ctrl-C."""
        settings = environment_settings(data_dir=data_dir, host=host, port=port, workers=workers, auth=auth)
        _run(settings, demo=demo)


def _run(settings: Settings, *, demo: bool) -> None:
    from issuer.cli.output import run_plain
    from issuer.embedded.binaries import MissingBinaryError
    from issuer.embedded.datadir import DataDirectoryError
    from issuer.embedded.supervisor import Supervisor
    from issuer.logs import configure_logs, warn_of_unknown_variables
    from issuer.processes.api import ListenError, PortInUseError
    from issuer.processes.children import ChildError

    async def supervise() -> None:
        configure_logs(settings.log_level, name="up")
        warn_of_unknown_variables()
        try:
            await Supervisor(settings, demo=demo).run()
        except PortInUseError as error:
            raise CommandError(
                str(error), hint='choose another port: issuer up --port 9000, or make up ARGS="--port 9000"'
            ) from error
        except (MissingBinaryError, ChildError, DataDirectoryError, ListenError) as error:
            raise CommandError(str(error)) from error

    run_plain(supervise, settings=settings)

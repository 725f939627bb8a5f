"""`issuer serve`: run the HTTP service with the servers of ISSUER_REDIS_URL and ISSUER_DATABASE_URL."""

from __future__ import annotations

import asyncio

import typer

from issuer.cli.output import SERVER_URLS, environment_settings, fail, run_plain
from issuer.settings import Auth


def register(app: typer.Typer) -> None:
    @app.command()
    def serve(
        host: str | None = typer.Option(None, help="Address to listen on [ISSUER_HOST, 127.0.0.1]."),
        port: int | None = typer.Option(None, help="Port to listen on; 0: a free one [ISSUER_PORT, 8000]."),
        workers: int | None = typer.Option(None, help="API processes [ISSUER_WORKERS, 1]."),
        auth: Auth | None = typer.Option(None, help="Check API keys [ISSUER_AUTH, on]."),
    ) -> None:
        """Run the HTTP service. Needs ISSUER_REDIS_URL, ISSUER_DATABASE_URL and a worker (`python -m sync_worker`)."""
        from issuer.logs import configure_logs, warn_of_unknown_variables
        from issuer.processes.api import ListenError, PortInUseError, listen, run_api, shared_metrics, url_of
        from issuer.processes.api import serve as serve_with_children
        from issuer.processes.children import ChildError
        from issuer.storage.incarnation import refuse_foreign_data

        settings = environment_settings(host=host, port=port, workers=workers, auth=auth)
        if not settings.model_fields_set.intersection(SERVER_URLS):
            fail(
                "`issuer serve` has no servers: set ISSUER_DATABASE_URL and ISSUER_REDIS_URL",
                hint="`issuer up` runs everything, with servers of its own",
            )
        run_plain(lambda: refuse_foreign_data(settings), settings=settings)
        configure_logs(settings.log_level, name="api")
        warn_of_unknown_variables()
        try:
            listener = listen(settings.host, settings.port)
        except ListenError as error:
            hint = "choose another port: issuer serve --port 9000" if isinstance(error, PortInUseError) else None
            fail(str(error), hint=hint)
        typer.echo(f"listening on {url_of(listener)}", err=True)
        if settings.workers == 1:
            run_api(settings, listener)
            return
        try:
            with shared_metrics(settings) as environment:
                environment["ISSUER_AUTH"] = settings.auth.value
                asyncio.run(serve_with_children(settings, listener, environment))
        except ChildError as error:
            fail(str(error))

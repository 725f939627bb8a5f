"""`issuer migrate`: brings the database to this program's schema."""

from __future__ import annotations

import typer

from issuer.cli.output import command_settings, print_json, run_plain


def register(app: typer.Typer) -> None:
    @app.command()
    def migrate(as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Bring the database to this program's schema. Safe to repeat and to run from several places at once."""
        from issuer.storage.migrate import SCHEMA_REVISION
        from issuer.storage.migrate import migrate as bring_up

        settings = command_settings()
        before = run_plain(lambda: bring_up(settings), settings=settings)
        if as_json:
            print_json({"before": before, "now": SCHEMA_REVISION})
        elif before == SCHEMA_REVISION:
            typer.echo(f"the schema is {SCHEMA_REVISION} already")
        else:
            typer.echo(f"migrated from {before or 'nothing'} to {SCHEMA_REVISION}")

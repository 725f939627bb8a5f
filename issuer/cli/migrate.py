"""`issuer migrate`: migrate the database to this program's schema."""

from __future__ import annotations

import typer

from issuer.cli.output import command_settings, print_json, run_plain


def register(app: typer.Typer) -> None:
    @app.command()
    def migrate(as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Migrate the database to this program's schema. Safe to repeat and to run on several hosts at once."""
        from issuer.storage.migrate import SCHEMA_REVISION
        from issuer.storage.migrate import migrate as migrate_schema

        settings = command_settings()
        before = run_plain(lambda: migrate_schema(settings), settings=settings)
        if as_json:
            print_json({"before": before, "now": SCHEMA_REVISION})
        elif before == SCHEMA_REVISION:
            typer.echo(f"the schema is already {SCHEMA_REVISION}")
        else:
            typer.echo(f"migrated from {before or 'an empty database'} to {SCHEMA_REVISION}")

"""`issuer migrate`: migrate the database to this program's schema, and give the processes' roles their rights."""

from __future__ import annotations

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import command_settings, environment_settings, print_json, process_settings, run_plain


def register(app: typer.Typer) -> None:
    @app.command()
    def migrate(
        print_roles: bool = typer.Option(
            False, "--print-roles", help="Print the SQL that creates the roles, for an administrator; change nothing."
        ),
        as_json: bool = AS_JSON,
    ) -> None:
        """Migrate the database to this program's schema. Safe to repeat and to run on several hosts at once.

        Also creates the Postgres roles of the API and the worker, if this role may, and grants them their rights.
        """
        from issuer.storage.migrate import SCHEMA_REVISION
        from issuer.storage.migrate import migrate as migrate_schema
        from issuer.storage.roles import create_roles, roles_sql

        if print_roles:
            statements = roles_sql(environment_settings())
            if as_json:
                print_json(statements)
            else:
                typer.echo(";\n".join(statements) + ";")
            return
        settings = command_settings()
        # The URLs of the processes: a role that one of them names gets its password.
        roles = run_plain(lambda: create_roles(process_settings()), settings=settings)
        before = run_plain(lambda: migrate_schema(settings), settings=settings)
        if as_json:
            print_json({"before": before, "now": SCHEMA_REVISION, "roles": roles.created, "problems": roles.problems})
            return
        for name in roles.created:
            typer.echo(f"created the role {name}")
        for problem in roles.problems:
            typer.echo(f"warning: {problem}", err=True)
        if before == SCHEMA_REVISION:
            typer.echo(f"the schema is already {SCHEMA_REVISION}")
        else:
            typer.echo(f"migrated from {before or 'an empty database'} to {SCHEMA_REVISION}")

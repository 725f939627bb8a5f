"""`issuer operators` and `issuer console-link`: who signs in to the console. Needs Postgres only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON, client_option
from issuer.cli.output import InputError, print_json, print_list, run_with_postgres
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.operators.operator import Operator
    from issuer.settings import Settings
    from issuer.storage.postgres import Pool

commands = typer.Typer(help="Create, list, reset and disable operators of the console.", no_args_is_help=True)
_NAME = typer.Argument(..., metavar="NAME", help="Name of the operator.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="operators")
    app.command("console-link")(console_link)


def console_link() -> None:
    """Print a link that signs one browser in to the console as admin. It is valid once, for 10 minutes."""
    from issuer.access.audit import cli_actor
    from issuer.cli.output import command_settings
    from issuer.operators.links import create_link

    path = run_with_postgres(lambda postgres: create_link(postgres, actor=cli_actor()))
    typer.echo(_console_url(command_settings()) + path)
    if sys.stdout.isatty():
        typer.echo("It signs one browser in, within 10 minutes.", err=True)


@commands.command()
def create(
    name: str = _NAME,
    role: str = typer.Option(..., help="viewer sees, operator also changes batches, admin also keys and operators."),
    client: str | None = typer.Option(
        None, help="Show this client only: a UUID, or the text of a registered one; default: every client."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Create an operator and print the first password, which is shown only this once."""
    from issuer.access.audit import cli_actor
    from issuer.operators.operator import InvalidOperatorError, OperatorExistsError
    from issuer.operators.store import create_operator

    async def work(postgres: Pool) -> tuple[Operator, str]:
        try:
            return await create_operator(
                postgres, name, role, client_id=await client_option(postgres, client), actor=cli_actor()
            )
        except (InvalidOperatorError, OperatorExistsError) as error:
            raise InputError(str(error)) from error

    _print_password(*run_with_postgres(work), as_json=as_json)


@commands.command("list")
def list_(as_json: bool = AS_JSON) -> None:
    """List all operators, those that are disabled too."""
    from issuer.operators.store import list_operators

    async def work(postgres: Pool) -> None:
        async def page(cursor: str | None) -> Page[Operator]:
            return await list_operators(postgres, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda operator: operator.to_json(),
            headers=("name", "role", "client", "state"),
            row=_row,
            empty="no operators yet: see `issuer operators create --help`",
        )

    run_with_postgres(work)


@commands.command()
def reset(name: str = _NAME, as_json: bool = AS_JSON) -> None:
    """Print another first password, which ends a lock and signs every browser of the operator out."""
    from issuer.access.audit import cli_actor
    from issuer.operators.operator import OperatorNotFoundError
    from issuer.operators.store import find_named_operator, reset_operator

    async def work(postgres: Pool) -> tuple[Operator, str]:
        try:
            operator = await find_named_operator(postgres, name)
            return await reset_operator(postgres, operator.id, actor=cli_actor())
        except OperatorNotFoundError as error:
            raise InputError(str(error)) from error

    _print_password(*run_with_postgres(work), as_json=as_json)


@commands.command()
def disable(name: str = _NAME, as_json: bool = AS_JSON) -> None:
    """Disable an operator, whose browsers are signed out at once. The name is free again."""
    from issuer.access.audit import cli_actor
    from issuer.operators.operator import OperatorNotFoundError
    from issuer.operators.store import disable_operator, find_named_operator

    async def work(postgres: Pool) -> Operator:
        try:
            operator = await find_named_operator(postgres, name)
            return await disable_operator(postgres, operator.id, actor=cli_actor())
        except OperatorNotFoundError as error:
            raise InputError(str(error)) from error

    disabled = run_with_postgres(work)
    if as_json:
        print_json(disabled.to_json())
    else:
        typer.echo(f"operator {visible(disabled.name)} is disabled")


def _console_url(settings: Settings) -> str:
    """Return the address by which a browser reaches the API."""
    from issuer.embedded.datadir import DataDirectory

    running = DataDirectory(settings.data_dir).running()
    if settings.public_url is not None or running is None:
        host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
        return settings.public_url or f"http://{host}:{settings.port}"
    return running.url


def _row(operator: Operator) -> tuple[str, ...]:
    state = "disabled" if operator.disabled_at else "first password" if operator.initial_until else "active"
    return operator.name, str(operator.role), operator.client_name or str(operator.client_id or "-"), state


def _print_password(operator: Operator, password: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**operator.to_json(), "secret": password})
    else:
        typer.echo(f"operator {visible(operator.name)} ({operator.role}): {password}")
        typer.echo("The password is shown only this once, for 7 days, and replaced at the sign-in.", err=True)

"""`issuer clients`: register, list, show and rename clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import InputError, print_json, print_list, run
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.clients.registry import Client
    from issuer.storage.stores import Stores

commands = typer.Typer(help="Register, list, show and rename clients.", no_args_is_help=True)

CLIENT = typer.Argument(..., metavar="CLIENT", help="The client's id: a UUID, or the text that it was registered with.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="clients")


@commands.command()
def create(
    client: str = typer.Argument(
        ..., metavar="CLIENT", help="Id of the client: a text of your own, such as band-42, or a UUID."
    ),
    name: str | None = typer.Option(None, help="Name for people; default: the text."),
    as_json: bool = AS_JSON,
) -> None:
    """Register a client. A text stands for the same client in files, requests and commands from then on."""
    from issuer.access.audit import cli_actor
    from issuer.clients.registry import create_client

    async def work(stores: Stores) -> Client:
        return await create_client(stores, stores.identity(client), name=name, actor=cli_actor())

    _show_one(work, as_json)


@commands.command("list")
def list_command(as_json: bool = AS_JSON) -> None:
    """List the registered clients, oldest first."""
    from issuer.clients.registry import list_clients

    async def work(stores: Stores) -> None:
        async def page(cursor: str | None) -> Page[Client]:
            return await list_clients(stores.postgres, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda client: client.to_json(),
            headers=("id", "text", "name"),
            row=lambda client: (str(client.id), client.text or "-", client.name),
            empty="no clients are registered: see `issuer clients create --help`",
        )

    run(work)


@commands.command()
def show(client: str = CLIENT, as_json: bool = AS_JSON) -> None:
    """Show a registered client."""
    from issuer.clients.registry import find_client

    _show_one(lambda stores: find_client(stores.postgres, stores.identity(client).uuid), as_json)


@commands.command()
def rename(
    client: str = CLIENT,
    name: str = typer.Argument(..., metavar="NAME", help="The new name."),
    as_json: bool = AS_JSON,
) -> None:
    """Change the name of a client. Its id stays."""
    from issuer.access.audit import cli_actor
    from issuer.clients.registry import rename_client

    _show_one(
        lambda stores: rename_client(stores.postgres, stores.identity(client).uuid, name, actor=cli_actor()), as_json
    )


def _show_one(work: Callable[[Stores], Awaitable[Client]], as_json: bool) -> None:
    """Run the work and print the client; a refusal that the operator can correct is an InputError."""
    from issuer.clients.registry import ClientExistsError, ClientNotFoundError, InvalidClientError
    from issuer.ids import InvalidIdError

    async def checked(stores: Stores) -> Client:
        try:
            return await work(stores)
        except (ClientExistsError, ClientNotFoundError, InvalidClientError, InvalidIdError) as error:
            raise InputError(str(error)) from error

    client = run(checked)
    if as_json:
        print_json(client.to_json())
        return
    typer.echo(f"client {client.id}: {visible(client.name)}")
    if client.text is not None:
        typer.echo(f"text {visible(client.text)}")

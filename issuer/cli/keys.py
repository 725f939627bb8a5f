"""`issuer keys`: create, list and revoke API keys. Needs Postgres only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON, client_option
from issuer.cli.output import InputError, print_json, print_list, run_with_postgres
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.access.api_keys import ApiKey
    from issuer.storage.postgres import Pool

commands = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="keys")


@commands.command()
def create(
    name: str = typer.Option(..., help="Purpose of the key; the audit log shows it."),
    scope: list[str] = typer.Option(..., help="redeem, admin or public; repeat the option for several scopes."),
    client: str | None = typer.Option(
        None, help="Bind the key to this client: a UUID, or the text of a registered one."
    ),
    rate_limit: str | None = typer.Option(
        None, help="Limit of requests: 100/s, 6000/m, 100/s,burst=500, or off; default: ISSUER_RATE_LIMIT."
    ),
    failed_lookup_limit: str | None = typer.Option(
        None,
        help="Limit of look-ups of unknown codes, in the same format; for a server that requests for many customers.",
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Create a key and print its secret, which is shown only this once."""
    from issuer.access.api_keys import InvalidApiKeyError, create_key
    from issuer.access.audit import cli_actor

    async def work(postgres: Pool) -> tuple[ApiKey, str]:
        try:
            return await create_key(
                postgres,
                name=name,
                scopes=scope,
                client_id=await client_option(postgres, client),
                rate_limit=rate_limit,
                failed_lookup_limit=failed_lookup_limit,
                actor=cli_actor(),
            )
        except InvalidApiKeyError as error:
            raise InputError(str(error)) from error

    key, secret = run_with_postgres(work)
    if as_json:
        print_json(key.to_json() | {"secret": secret})
        return
    typer.echo(
        f"key {key.id} for {visible(key.name)} ({', '.join(sorted(key.scopes))}); its secret is not shown again:",
        err=True,
    )
    typer.echo(secret)


@commands.command("list")
def list_command(as_json: bool = AS_JSON) -> None:
    """List all keys, including revoked ones, without their secrets."""
    from issuer.access.api_keys import list_keys

    async def work(postgres: Pool) -> None:
        async def page(cursor: str | None) -> Page[ApiKey]:
            return await list_keys(postgres, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda key: key.to_json(),
            headers=("id", "state", "scopes", "client", "rate limit", "failed lookups", "name"),
            row=_row,
            empty="no keys yet: see `issuer keys create --help`",
        )

    run_with_postgres(work)


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        str(key.id),
        "valid" if key.revoked_at is None else "revoked",
        ",".join(sorted(key.scopes)),
        key.client_name or str(key.client_id or "-"),
        str(key.rate_limit or "-"),
        str(key.failed_lookup_limit or "-"),
        key.name,
    )


@commands.command()
def revoke(
    key: int = typer.Argument(..., metavar="ID", min=1, max=2**31 - 1, help="Id of the key."), as_json: bool = AS_JSON
) -> None:
    """Revoke a key. Every process that reaches Postgres refuses it within one second."""
    from issuer.access.api_keys import ApiKeyNotFoundError, revoke_key
    from issuer.access.audit import cli_actor

    async def work(postgres: Pool) -> ApiKey:
        try:
            return await revoke_key(postgres, key, actor=cli_actor())
        except ApiKeyNotFoundError as error:
            raise InputError(str(error)) from error

    revoked = run_with_postgres(work)
    if as_json:
        print_json(revoked.to_json())
    else:
        typer.echo(f"key {revoked.id} ({visible(revoked.name)}) is revoked")

"""`issuer secrets`: the key that encrypts secrets in Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import BAD_INPUT, command_settings, fail, print_json, run_with_postgres

if TYPE_CHECKING:
    from issuer.storage.postgres import Pool


def register(app: typer.Typer) -> None:
    secrets = typer.Typer(help="The key that encrypts secrets in Postgres (ISSUER_SECRET_KEY).", no_args_is_help=True)
    secrets.command("new-key")(new_key)
    secrets.command("rotate")(rotate)
    app.add_typer(secrets, name="secrets")


def new_key(as_json: bool = AS_JSON) -> None:
    """Print a random key for ISSUER_SECRET_KEY."""
    from issuer.access.secrets import new_key as random_key

    key = random_key()
    if as_json:
        print_json({"key": key})
    else:
        typer.echo(key)


def rotate(as_json: bool = AS_JSON) -> None:
    """Encrypt every stored secret with the first key of ISSUER_SECRET_KEY, which lists the older keys after it.

    Afterwards the older keys are not needed. Safe to repeat.
    """
    from issuer.access import audit
    from issuer.access.secrets import SecretKeyError, SecretKeys, rotate_secrets

    try:
        keys = SecretKeys.from_settings(command_settings())
    except SecretKeyError as error:
        fail(str(error), BAD_INPUT)

    async def work(postgres: Pool) -> int:
        rotated = await rotate_secrets(postgres, keys)
        async with postgres.acquire() as connection:
            await audit.record(
                connection, actor=audit.cli_actor(), action="secrets.rotate", subject=f"key:{keys.current.hex()}",
                detail={"secrets": rotated},
            )  # fmt: skip
        return rotated

    try:
        rotated = run_with_postgres(work)
    except SecretKeyError as error:
        fail(str(error))
    if as_json:
        print_json({"rotated": rotated, "key": keys.current.hex()})
    else:
        typer.echo(f"{rotated} secrets encrypted with the key {keys.current.hex()}")

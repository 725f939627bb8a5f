"""Shared by all commands: find the installation and connect to its stores, print JSON, report errors.

Exit codes: 0 done; 1 failed, a check found a fault, or no installation was found; 2 invalid input; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import typer

from issuer.cli.tables import Cell, Table
from issuer.names import visible

if TYPE_CHECKING:
    from pydantic import SecretStr

    from issuer.embedded.datadir import DataDirectory
    from issuer.settings import Settings
    from issuer.storage.postgres import Pool
    from issuer.storage.stores import Stores

T = TypeVar("T")

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

SERVER_URLS: Final = ("redis_url", "database_url", "owner_database_url")
"""The settings that name servers."""


class CommandError(Exception):
    """The command failed. Exit code 1; the message is written for a person, and the hint says what to do."""

    status = FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(CommandError):
    """The input is invalid or cannot be carried out. Exit code 2."""

    status = BAD_INPUT


def fail(message: str, code: int = FAILED, *, hint: str | None = None) -> NoReturn:
    """Print an error and exit."""
    print_error(message, hint=hint)
    raise typer.Exit(code)


def print_error(message: str, *, hint: str | None = None) -> None:
    """Print `error: …` and perhaps `hint: …` on stderr, without secrets and unseen characters."""
    from issuer.logs import masked

    typer.echo(f"error: {visible(masked(message))}", err=True)
    if hint is not None:
        typer.echo(f"hint: {visible(masked(hint))}", err=True)


def print_json(value: Any) -> None:
    """Print one JSON document. Values may be UUIDs, datetimes and dataclasses."""
    typer.echo(_json_text(value))


def _json_text(value: Any) -> str:
    """Return a value as JSON, with the characters that are not seen as JSON escapes, which means the same."""
    import orjson

    text = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    if text.isascii():
        return text
    return "".join(
        character if character in "\n" or visible(character) == character else json.dumps(character)[1:-1]
        for character in text
    )


def print_fields(*fields: tuple[str, str | None]) -> None:
    """Print one object: a line for each field, with the values in one column. A field without a value is left out."""
    given = [(name, value) for name, value in fields if value is not None]
    width = max(len(name) for name, _ in given)
    for name, value in given:
        typer.echo(f"{name:<{width}}  {visible(value)}")


async def print_list(
    chunks: AsyncIterator[Sequence[T]],
    *,
    as_json: bool,
    to_json: Callable[[T], object],
    headers: Sequence[str],
    row: Callable[[T], Sequence[Cell]],
    empty: str,
) -> None:
    """Print a list as it is read, so that memory does not grow with it: one JSON array, or a table."""
    if not as_json:
        table = Table(headers, empty=empty)
        async for chunk in chunks:
            table.add([row(item) for item in chunk])
        table.close()
        return
    separator = "["
    async for chunk in chunks:
        for item in chunk:
            typer.echo(separator + "\n  " + _json_text(to_json(item)).replace("\n", "\n  "), nl=False)
            separator = ","
    typer.echo("[]" if separator == "[" else "\n]")


def start_hint() -> str:
    """Return how to start an installation or to find one: in a clone of this project, `make up` starts it."""
    try:
        in_clone = "issuer up" in Path("Makefile").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        in_clone = False
    command = "make up" if in_clone else "issuer up"
    return (
        f"start one here with `{command}`, or change to the directory where it was started (ISSUER_DATA_DIR names"
        " another data directory); for servers of your own set ISSUER_DATABASE_URL and ISSUER_REDIS_URL"
    )


def command_settings(**overrides: object) -> Settings:
    """Return the settings of a command, which works with the role that owns the tables."""
    return process_settings(**overrides).as_owner()


def process_settings(**overrides: object) -> Settings:
    """Return the settings that the processes have, or exit where there is no installation: see `find_installation`."""
    from issuer.embedded.datadir import DataDirectory

    settings = environment_settings(**overrides)
    found = find_installation(settings)
    if found is None:
        fail(f"no issuer runs here: {DataDirectory(settings.data_dir).absence()}", hint=start_hint())
    return found


def environment_settings(**overrides: object) -> Settings:
    """Return the settings of the environment. Invalid ones end the command with exit code 2."""
    from issuer.settings import SettingsError, load_settings

    try:
        return load_settings(**overrides)
    except SettingsError as error:
        fail(str(error), BAD_INPUT)


def find_installation(settings: Settings) -> Settings | None:
    """Return the settings with the servers of the installation; None if there is none.

    Servers that the environment names are used. Otherwise they are those of the `issuer up` of this user that runs on
    the data directory: a second terminal needs no configuration. The default addresses are not tried: what listens
    there may belong to another program.
    """
    from pydantic import SecretStr

    from issuer.embedded.datadir import DataDirectory

    directory = DataDirectory(settings.data_dir)
    running = directory.running()
    named = {name for name in SERVER_URLS if name in settings.model_fields_set}
    # `issuer up` itself may use a server that the environment names.
    if running is None or any(getattr(settings, name).get_secret_value() != getattr(running, name) for name in named):
        return settings if named else None
    return settings.model_copy(
        update={
            "redis_url": SecretStr(running.redis_url),
            "database_url": SecretStr(running.database_url),
            "worker_database_url": SecretStr(running.worker_database_url),
            "owner_database_url": SecretStr(running.owner_database_url),
            "secret_key": settings.secret_key or _secret_of_data(directory),
            "partitions": running.partitions,
            "pool_high_water": running.pool_high_water,
            "default_client": settings.default_client or running.default_client,
        }
    )


def _secret_of_data(directory: DataDirectory) -> SecretStr | None:
    """Return the secret key that `issuer up` has created."""
    from pydantic import SecretStr

    try:
        return SecretStr(directory.secret_key.read_text().strip())
    except OSError:
        return None


def run(work: Callable[[Stores], Awaitable[T]], *, settings: Settings | None = None) -> T:
    """Open the stores, run `work` with them and close them; report a failure as one line and an exit code.

    Checks first that the database has this program's schema. Ctrl-C cancels the work; the exit code is then 130.
    """
    settings = settings or command_settings()

    async def work_with_stores() -> T:
        from issuer.recovery.opening import open_stores
        from issuer.storage.migrate import check_schema
        from issuer.storage.pooling import refuse_pooling
        from issuer.storage.postgres import close_pool, connect_pool

        postgres = await connect_pool(settings, size=1)
        try:
            await refuse_pooling(settings, postgres)
            await check_schema(postgres)
        finally:
            await close_pool(postgres)
        async with open_stores(settings) as stores:
            return await work(stores)

    return run_plain(work_with_stores, settings=settings)


def run_with_postgres(work: Callable[[Pool], Awaitable[T]]) -> T:
    """Like `run`, for a command that needs Postgres only."""
    settings = command_settings()

    async def work_with_postgres() -> T:
        from issuer.storage.migrate import check_schema
        from issuer.storage.pooling import refuse_pooling
        from issuer.storage.postgres import close_pool, connect_pool

        postgres = await connect_pool(settings, size=2)
        try:
            await refuse_pooling(settings, postgres)
            await check_schema(postgres)
            return await work(postgres)
        finally:
            await close_pool(postgres)

    return run_plain(work_with_postgres, settings=settings)


def run_plain(work: Callable[[], Awaitable[T]], *, settings: Settings | None = None) -> T:
    """Like `run`, for a command that opens its own connections."""
    from issuer.logs import configure_logs

    configure_logs("warning" if settings is None or settings.log_level == "info" else settings.log_level)

    async def awaited() -> T:
        return await work()

    try:
        return asyncio.run(awaited())
    except CommandError as error:
        fail(str(error), error.status, hint=error.hint)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except Exception as error:
        if not isinstance(error, _known_failures()):
            raise
        fail(_describe(error))


def _describe(error: Exception) -> str:
    import asyncpg

    from issuer.storage.postgres import PostgresUnavailableError
    from issuer.storage.redis_link import RedisUnavailableError

    text = str(error) or type(error).__name__
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return f"{text}: the role lacks a right. Commands need ISSUER_OWNER_DATABASE_URL, and its role owns the tables"
    if isinstance(error, PostgresUnavailableError):
        return f"Postgres is unavailable: {text}"
    if isinstance(error, RedisUnavailableError):
        return f"Redis is unavailable: {text}"
    return text


def _known_failures() -> tuple[type[Exception], ...]:
    """Return the failures whose message is sufficient for an operator; others are bugs and print a traceback."""
    import asyncpg

    from issuer.storage.incarnation import InstallationError
    from issuer.storage.lineage import IncidentError
    from issuer.storage.migrate import SchemaError
    from issuer.storage.pooling import PoolingError
    from issuer.storage.postgres import UNAVAILABLE, PostgresUnavailableError
    from issuer.storage.redis_link import RedisUnavailableError

    return (
        IncidentError,
        InstallationError,
        PoolingError,
        SchemaError,
        PostgresUnavailableError,
        RedisUnavailableError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
        *(kind for kind in UNAVAILABLE if issubclass(kind, Exception)),
    )

"""Shared by all commands: connect to the stores, print JSON, report errors.

Exit codes: 0 done, 1 failed (or a check found a fault), 2 invalid input, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from pydantic import SecretStr

from issuer.embedded.datadir import DataDirectory
from issuer.logs import configure_logs, masked
from issuer.names import visible
from issuer.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from issuer.storage.postgres import Pool
    from issuer.storage.stores import Stores

T = TypeVar("T")

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class InputError(Exception):
    """The input is invalid or cannot be carried out. Exit code 2; the message is written for a person."""


class CommandError(Exception):
    """The command failed. Exit code 1; the message is written for a person."""


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print `error: …` on stderr, without secrets and unseen characters, and exit."""
    typer.echo(f"error: {visible(masked(message))}", err=True)
    raise typer.Exit(code)


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


async def print_list(
    chunks: AsyncIterator[Sequence[T]],
    *,
    as_json: bool,
    to_json: Callable[[T], object],
    line: Callable[[T], str],
) -> None:
    """Print a list as it is read, so that memory does not grow with it: one JSON array, or a line for each item."""
    separator = "["
    async for chunk in chunks:
        for item in chunk:
            if not as_json:
                typer.echo(line(item))
                continue
            typer.echo(separator + "\n  " + _json_text(to_json(item)).replace("\n", "\n  "), nl=False)
            separator = ","
    if as_json:
        typer.echo("[]" if separator == "[" else "\n]")


def command_settings(**overrides: object) -> Settings:
    """Return the settings of a command, which works with the role that owns the tables."""
    return process_settings(**overrides).as_owner()


def process_settings(**overrides: object) -> Settings:
    """Return the settings that the processes have.

    If the environment names neither Redis nor Postgres and an `issuer up` of this user runs on the data directory, they
    are the settings of that installation: a second terminal needs no configuration.
    """
    try:
        settings = load_settings(**overrides)
    except SettingsError as error:
        fail(str(error), BAD_INPUT)
    if _servers_are_named():
        return settings
    directory = DataDirectory(settings.data_dir)
    running = directory.running()
    if running is None:
        return settings
    return settings.model_copy(
        update={
            "redis_url": SecretStr(running.redis_url),
            "database_url": SecretStr(running.database_url),
            "worker_database_url": SecretStr(running.worker_database_url),
            "owner_database_url": SecretStr(running.owner_database_url),
            "secret_key": settings.secret_key or _secret_of_data(directory),
            "partitions": running.partitions,
            "pool_high_water": running.pool_high_water,
        }
    )


def _secret_of_data(directory: DataDirectory) -> SecretStr | None:
    """Return the secret key that `issuer up` has created."""
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
        from issuer.storage.postgres import close_pool, connect_pool

        postgres = await connect_pool(settings, size=1)
        try:
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
        from issuer.storage.postgres import close_pool, connect_pool

        postgres = await connect_pool(settings, size=2)
        try:
            await check_schema(postgres)
            return await work(postgres)
        finally:
            await close_pool(postgres)

    return run_plain(work_with_postgres, settings=settings)


def run_plain(work: Callable[[], Awaitable[T]], *, settings: Settings | None = None) -> T:
    """Like `run`, for a command that opens its own connections."""
    configure_logs("warning" if settings is None or settings.log_level == "info" else settings.log_level)

    async def awaited() -> T:
        return await work()

    try:
        return asyncio.run(awaited())
    except InputError as error:
        fail(str(error), BAD_INPUT)
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
        return f"Postgres is unavailable: {text}{startup_hint()}"
    if isinstance(error, RedisUnavailableError):
        return f"Redis is unavailable: {text}{startup_hint()}"
    return text


def startup_hint() -> str:
    """Return a hint if no server is configured and no `issuer up` runs; otherwise an empty text."""
    directory = load_settings().data_dir
    if _servers_are_named() or DataDirectory(directory).running() is not None:
        return ""
    return (
        f"\nno `issuer up` of this user runs on {directory.absolute()} (ISSUER_DATA_DIR), and neither"
        " ISSUER_REDIS_URL nor ISSUER_DATABASE_URL is set: start one, or set both"
    )


def _servers_are_named() -> bool:
    names = ("ISSUER_REDIS_URL", "ISSUER_DATABASE_URL", "ISSUER_OWNER_DATABASE_URL")
    return any(os.environ.get(name) for name in names)


def _known_failures() -> tuple[type[Exception], ...]:
    """Return the failures whose message is sufficient for an operator; others are bugs and print a traceback."""
    import asyncpg

    from issuer.storage.incarnation import InstallationError
    from issuer.storage.migrate import SchemaError
    from issuer.storage.postgres import UNAVAILABLE, PostgresUnavailableError
    from issuer.storage.redis_link import RedisUnavailableError

    return (
        CommandError,
        InstallationError,
        SchemaError,
        PostgresUnavailableError,
        RedisUnavailableError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
        *(kind for kind in UNAVAILABLE if issubclass(kind, Exception)),
    )

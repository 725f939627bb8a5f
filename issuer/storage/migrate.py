"""The schema's version: bringing a database up to it, and refusing to work on one that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from issuer.settings import Settings
from issuer.storage.postgres import MIGRATION_LOCK, Pool, unavailable_translated

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEMA_REVISION: Final = "0001"
"""The newest in migrations/versions. Revisions are numbers, so that an old program knows a newer one."""

SCRIPTS: Final = Path(__file__).parent / "migrations"


class SchemaError(Exception):
    """The database does not fit this program. The message says what to do."""


def _check(revision: str | None) -> None:
    if revision == SCHEMA_REVISION:
        return
    if revision is None:
        raise SchemaError("the database has no tables yet; run `issuer migrate`")
    if revision > SCHEMA_REVISION:
        raise SchemaError(
            f"the database has schema {revision}, newer than the {SCHEMA_REVISION} that this program knows; "
            "run the newer program"
        )
    raise SchemaError(f"the database has schema {revision}, this program needs {SCHEMA_REVISION}; run `issuer migrate`")


async def check_schema(postgres: Pool) -> None:
    """Returns when the database has exactly the schema of this program.

    Raises SchemaError when it is older, newer or empty, and PostgresUnavailableError when it cannot be asked.
    """
    async with unavailable_translated():
        if await postgres.fetchval("SELECT to_regclass('alembic_version')") is None:
            _check(None)
        _check(await postgres.fetchval("SELECT version_num FROM alembic_version"))


def _upgrade(connection: Connection) -> str | None:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    before = MigrationContext.configure(connection).get_current_revision()
    if before is not None and before > SCHEMA_REVISION:
        _check(before)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, SCHEMA_REVISION)
    return before


async def migrate(settings: Settings) -> str | None:
    """Brings the database to this program's schema in one transaction; returns the revision it had before.

    Safe to run at the same time from several places and to kill at any moment. Raises SchemaError when the
    database is newer than the program, PostgresUnavailableError when it cannot be reached.
    """
    # Here, because the API asks check_schema only and need not carry SQLAlchemy.
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def connect() -> Any:
        # asyncpg reads the URL itself, as everywhere else: sslmode, sockets and service files mean the same.
        url = settings.database_url.get_secret_value()
        return await asyncpg.connect(url, timeout=10, server_settings={"application_name": "issuer migrate"})

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with unavailable_translated():
            try:
                async with engine.begin() as connection:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                    return await connection.run_sync(_upgrade)
            except DBAPIError as error:
                # As asyncpg said it: away, starting up, a wrong password mean the same here as everywhere else.
                raise (error.orig and error.orig.__cause__) or error from None
    finally:
        await engine.dispose()

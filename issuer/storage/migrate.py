"""The version of the schema: migrate a database to it, refuse a database of another version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from issuer.settings import Settings
from issuer.storage.pooling import refuse_pooling
from issuer.storage.postgres import MIGRATION_LOCK, Pool, unavailable_translated
from issuer.storage.roles import EXISTING_ROLES, OWNS_DATABASE, grant_statements, role_names

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEMA_REVISION: Final = "0006"
"""The newest revision in migrations/versions. Revisions are ordered, so an old version recognises a newer schema."""

SCRIPTS: Final = Path(__file__).parent / "migrations"


class SchemaError(Exception):
    """The database has another schema than this version needs. The message says what to do."""


def _check(revision: str | None) -> None:
    if revision == SCHEMA_REVISION:
        return
    if revision is None:
        raise SchemaError("the database has no tables yet; run `issuer migrate`")
    if revision > SCHEMA_REVISION:
        raise SchemaError(
            f"the database has schema {revision}, newer than {SCHEMA_REVISION}, which this version needs; "
            "run the newer version"
        )
    raise SchemaError(f"the database has schema {revision}, this version needs {SCHEMA_REVISION}; run `issuer migrate`")


async def check_schema(postgres: Pool) -> None:
    """Return if the database has exactly the schema of this version.

    Raises SchemaError when it is older, newer or empty, PostgresUnavailableError when that cannot be determined.
    """
    async with unavailable_translated():
        if await postgres.fetchval("SELECT to_regclass('alembic_version')") is None:
            _check(None)
        _check(await postgres.fetchval("SELECT version_num FROM alembic_version"))


def _upgrade(connection: Connection, settings: Settings) -> str | None:
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
    _grant(connection, settings)
    return before


def _grant(connection: Connection, settings: Settings) -> None:
    """Grant in the same transaction: no process ever sees a new table without its rights."""

    def value(query: str, *parameters: object) -> Any:
        return connection.exec_driver_sql(query, parameters).scalars().all()

    (schema,) = value("SELECT current_schema()")
    (database,) = value("SELECT current_database()")
    (owns_database,) = value(OWNS_DATABASE)
    existing = value(EXISTING_ROLES, role_names(settings))
    for statement in grant_statements(settings, existing, schema=schema, database=database if owns_database else None):
        connection.exec_driver_sql(statement)


async def migrate(settings: Settings) -> str | None:
    """Migrate the database to this version's schema in one transaction; return the revision that it had before.

    Grants the roles of the API and the worker their rights; `create_roles` creates them. Works with the role of the
    setting owner_database_url.

    Safe to run from several processes at the same time and to kill at any moment. Raises SchemaError when the database
    is newer than that, PoolingError, PostgresUnavailableError when it cannot be reached.
    """
    # Imported here: the API calls check_schema only and need not load SQLAlchemy.
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    await refuse_pooling(settings.as_owner())

    async def connect() -> Any:
        # asyncpg parses the URL, as everywhere else, so sslmode, sockets and service files mean the same.
        url = settings.as_owner().database_url.get_secret_value()
        return await asyncpg.connect(url, timeout=10, server_settings={"application_name": "issuer migrate"})

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with unavailable_translated():
            try:
                async with engine.begin() as connection:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                    return await connection.run_sync(_upgrade, settings)
            except DBAPIError as error:
                # The driver's own error: unavailable, starting up or a wrong password is reported as everywhere else.
                raise (error.orig and error.orig.__cause__) or error from None
    finally:
        await engine.dispose()

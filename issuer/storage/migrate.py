"""The version of the schema: migrate a database to it, refuse a database of another version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from issuer.settings import Settings
from issuer.storage.migrations.large_indexes import LARGE_INDEXES
from issuer.storage.pooling import refuse_pooling
from issuer.storage.postgres import INDEX_LOCK, MIGRATION_LOCK, Pool, unavailable_translated
from issuer.storage.roles import EXISTING_ROLES, OWNS_DATABASE, grant_statements, role_names

if TYPE_CHECKING:
    from sqlalchemy import Connection

SCHEMA_REVISION: Final = "0006"
"""The newest revision in migrations/versions. Revisions are ordered, so an old version recognises a newer schema."""

INDEX_LOCK_EVERY_S: Final = 0.1
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


async def _build_large_indexes(connection: asyncpg.Connection[Any]) -> None:
    """Build what revisions to come add to large tables, without a lock that a worker would wait for.

    A build that was interrupted leaves an index that is not valid: it is built again.
    """
    # A lock that is waited for would be a snapshot, for which a build waits in turn.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", INDEX_LOCK):
        await asyncio.sleep(INDEX_LOCK_EVERY_S)
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return
    revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    for name, index in LARGE_INDEXES.items():
        is_valid = await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", name)
        if is_valid or revision is None or revision >= index.revision:
            continue
        if is_valid is not None:
            await connection.execute(f"DROP INDEX CONCURRENTLY {name}")
        await connection.execute(f"CREATE INDEX CONCURRENTLY {index.definition}")


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

    Only indexes of large tables are built before that, each by itself, so that workers go on meanwhile.

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
            ahead = await connect()
            try:
                await _build_large_indexes(ahead)
            finally:
                ahead.terminate()
            try:
                async with engine.begin() as connection:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                    return await connection.run_sync(_upgrade, settings)
            except DBAPIError as error:
                # The driver's own error: unavailable, starting up or a wrong password is reported as everywhere else.
                raise (error.orig and error.orig.__cause__) or error from None
    finally:
        await engine.dispose()

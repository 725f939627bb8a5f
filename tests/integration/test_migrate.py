"""The version of the schema, on a real Postgres."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from pydantic import SecretStr

from issuer.settings import Settings
from issuer.storage.migrate import SCHEMA_REVISION, SchemaError, check_schema, migrate
from issuer.storage.postgres import PostgresUnavailableError, connect_pool
from loadtest.processes import free_port
from tests.support.servers import PostgresServer


def _settings(url: str) -> Settings:
    return Settings(database_url=SecretStr(url))


async def _check(url: str) -> None:
    pool = await connect_pool(_settings(url), size=1)
    try:
        await check_schema(pool)
    finally:
        await pool.close()


def test_the_newest_migration_is_the_revision_in_the_code() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from issuer.storage.migrate import SCRIPTS

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [SCHEMA_REVISION]
    assert all(revision.revision.isdigit() and len(revision.revision) == 4 for revision in script.walk_revisions())


async def test_an_empty_database_is_refused_until_it_is_migrated(empty_database_url: str) -> None:
    with pytest.raises(SchemaError, match="run `issuer migrate`"):
        await _check(empty_database_url)
    assert await migrate(_settings(empty_database_url)) is None
    await _check(empty_database_url)
    assert await migrate(_settings(empty_database_url)) == SCHEMA_REVISION


async def test_every_table_is_described_in_the_database(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace"
            " AND obj_description(oid, 'pg_class') IS NULL"
        )
    finally:
        await connection.close()
    # Alembic's own table, which holds the version.
    assert [row["relname"] for row in rows] == ["alembic_version"]


async def test_concurrent_migrations_migrate_once(empty_database_url: str) -> None:
    settings = _settings(empty_database_url)
    before = await asyncio.gather(*(migrate(settings) for _ in range(4)))
    assert sorted(before, key=str) == [SCHEMA_REVISION] * 3 + [None]
    await _check(empty_database_url)


@pytest.mark.parametrize(("revision", "message"), [("9999", "newer"), ("0000", "run `issuer migrate`")])
async def test_other_revisions_are_refused(database_url: str, revision: str, message: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
        with pytest.raises(SchemaError, match=message):
            await _check(database_url)
        if revision == "9999":
            with pytest.raises(SchemaError, match="newer"):
                await migrate(_settings(database_url))
    finally:
        await connection.close()


async def test_an_unreachable_postgres_is_unavailable() -> None:
    with pytest.raises(PostgresUnavailableError):
        await migrate(_settings(f"postgresql://postgres@127.0.0.1:{free_port()}/x"))


async def test_a_wrong_database_name_is_the_error_of_the_driver(postgres_server: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError, match="nowhere"):
        await migrate(_settings(postgres_server.url("nowhere")))


async def test_url_may_carry_sslmode(database_url: str) -> None:
    await migrate(_settings(f"{database_url}?sslmode=prefer"))
    with pytest.raises(PostgresUnavailableError, match="SSL"):
        await migrate(_settings(f"{database_url}?sslmode=require"))

"""What a test leaves in its database, no other test finds there."""

from __future__ import annotations

import asyncpg
import pytest

from tests.support.databases import MigratedDatabases
from tests.support.servers import PostgresServer

INSERT_BATCH = "INSERT INTO batches (partition, id, name) VALUES (0, gen_random_uuid(), 'left behind')"
INSERT_POOL = "INSERT INTO pools (batch_id, client_id, total) SELECT id, id, 1 FROM batches RETURNING id"


async def test_a_database_comes_back_empty(migrated_databases: MigratedDatabases) -> None:
    url = migrated_databases.lend()
    connection = await asyncpg.connect(url)
    await connection.execute(INSERT_BATCH)
    assert await connection.fetchval(INSERT_POOL) == 1
    migrated_databases.take_back(url)
    with pytest.raises(asyncpg.PostgresError):
        await connection.fetchval("SELECT 1")
    assert migrated_databases.lend() == url
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM batches") == 0
        # Its numbers start over.
        await connection.execute(INSERT_BATCH)
        assert await connection.fetchval(INSERT_POOL) == 1
    finally:
        await connection.close()
        migrated_databases.take_back(url)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE pools ADD COLUMN more int",
        "ALTER TABLE pools ALTER COLUMN total DROP NOT NULL",
        "CREATE TABLE more (id int)",
        "DROP VIEW ledger",
        "DROP TABLE alembic_version",
        "UPDATE alembic_version SET version_num = '9999'",
    ],
)
async def test_a_database_with_another_schema_is_dropped(
    migrated_databases: MigratedDatabases, postgres_server: PostgresServer, change: str
) -> None:
    url = migrated_databases.lend()
    postgres_server.psql(change, url.rpartition("/")[2])
    migrated_databases.take_back(url)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)

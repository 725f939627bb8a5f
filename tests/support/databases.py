"""Databases of a test's own on the servers that all tests of a process share."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final

import asyncpg
from pydantic import SecretStr

from issuer.settings import Settings
from tests.support.servers import STOP_LIMIT_S, PostgresServer, RedisServer

TEMPLATE: Final = "issuer_template"
REDIS_DATABASES: Final = 4096
_numbers = itertools.count(1)

_CLOSE_OTHER_CONNECTIONS: Final = """
SET lock_timeout = '10s';
DO $$
BEGIN
    -- pg_terminate_backend with a time limit looks only ten times a second.
    FOR attempt IN 1..5000 LOOP
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
        EXIT WHEN NOT FOUND;
        PERFORM pg_sleep(0.002);
        PERFORM pg_stat_clear_snapshot();
    END LOOP;
END $$
"""

_EMPTY_USED_TABLES: Final = """
-- The audit log is append-only: its triggers refuse this. Rows are deleted whatever refers to them.
SET session_replication_role = replica;
DO $$
DECLARE
    name text;
BEGIN
    -- Only those that have pages: to ask each table for a row takes longer than all else.
    FOR name IN
        SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname NOT IN ('alembic_version', 'audit_ends') AND pg_relation_size(oid) > 0
    LOOP
        IF pg_relation_size(name::regclass) > 1000000 THEN
            EXECUTE format('TRUNCATE %s CASCADE', name);
        ELSE
            EXECUTE format('DELETE FROM %s', name);
        END IF;
    END LOOP;
    UPDATE audit_ends SET id = 0, hash = decode(repeat('00', 32), 'hex') WHERE id <> 0;
    PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
    FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
END $$
"""
"""To delete a few rows is ten times as quick as TRUNCATE, which creates the files of a table and its indexes."""

_EMPTIED: Final = """
SELECT string_agg(quote_ident(relname), ', ') FROM pg_class WHERE relnamespace = 'public'::regnamespace
    AND relkind = 'r' AND relname NOT IN ('alembic_version', 'audit_ends') AND pg_relation_size(oid) > 0
"""
"""The tables that still have pages. VACUUM takes them: the next test finds its rows in the order of insertion."""

_SCHEMA: Final = """
SELECT concat_ws(' ',
    (SELECT sum(xmin::text::bigint) FROM pg_attribute WHERE attrelid >= 16384),
    (SELECT sum(xmin::text::bigint) FROM pg_constraint WHERE oid >= 16384),
    (SELECT sum(xmin::text::bigint) FROM pg_index WHERE indexrelid >= 16384),
    (SELECT sum(xmin::text::bigint) FROM pg_trigger WHERE oid >= 16384),
    (SELECT sum(xmin::text::bigint) FROM pg_proc WHERE oid >= 16384),
    (SELECT version_num FROM alembic_version))
"""
"""Which transactions wrote the catalog: the same in all copies of a database until one of them is altered."""

_KEEP_OUT_CHANGED: Final = """
DO $$
BEGIN
    -- Before the tables are emptied: one that a test has dropped or added is no table to empty.
    IF ({schema}) <> '{expected}' THEN
        RAISE EXCEPTION 'the schema has changed';
    END IF;
END $$;
"""


class MigratedDatabases:
    """Migrated, empty databases of a server, lent to one test at a time.

    A database that comes back is emptied and lent again, which takes a tenth of the time of a new copy. One whose
    schema a test has changed is dropped.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._free: list[str] = []
        self._schema = server.psql(_SCHEMA, TEMPLATE)

    def lend(self) -> str:
        """Return the URL of a migrated, empty database."""
        return self._free.pop() if self._free else clone_database(self._server)

    def take_back(self, url: str) -> None:
        """Close all connections to a database and empty it."""
        unchanged = _KEEP_OUT_CHANGED.format(schema=_SCHEMA, expected=self._schema)
        try:
            _empty(url, f"{_CLOSE_OTHER_CONNECTIONS};{unchanged}{_EMPTY_USED_TABLES}")
        except asyncpg.PostgresError:
            drop_database(self._server, url)
        else:
            self._free.append(url)


def _empty(url: str, sql: str) -> None:
    """Run the statements and vacuum in one session, in a fraction of the time that psql takes to start."""

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=STOP_LIMIT_S)
        try:
            await connection.execute(sql, timeout=STOP_LIMIT_S)
            if emptied := await connection.fetchval(_EMPTIED):
                await connection.execute(f"VACUUM (INDEX_CLEANUP ON) {emptied}", timeout=STOP_LIMIT_S)
        finally:
            connection.terminate()

    # A thread has no event loop, whether the test that ends here has one or not.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, run()).result()


def create_template(server: PostgresServer) -> None:
    """Create the migrated, empty database that `clone_database` copies, and the roles of the processes."""
    create_migrated(server, TEMPLATE)


def create_migrated(server: PostgresServer, name: str) -> None:
    """Create a database of this name with the schema, and the roles of the processes with their rights."""
    server.psql(f"CREATE DATABASE {name}")
    asyncio.run(migrate_with_roles(Settings(database_url=SecretStr(server.url(name)))))


async def migrate_with_roles(settings: Settings) -> None:
    """Do what `issuer migrate` does, on a server of a test's own."""
    from issuer.storage.migrate import migrate
    from issuer.storage.roles import create_roles

    await create_roles(settings)
    await migrate(settings)


def clone_database(server: PostgresServer) -> str:
    """Return the URL of a new, migrated, empty database."""
    name = f"test_{next(_numbers)}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    return server.url(name)


def empty_database(server: PostgresServer) -> str:
    """Return the URL of a new database without tables."""
    name = f"empty_{next(_numbers)}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    return server.url(name)


def drop_database(server: PostgresServer, url: str) -> None:
    """Drop a database and close the connections to it."""
    server.psql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


def fresh_redis_url(server: RedisServer) -> str:
    """Return the URL of a database number that no test of this process has used."""
    return server.url(next(_numbers) % REDIS_DATABASES)


def settings_for(redis_url: str, database_url: str, directory: Path) -> Settings:
    """Return settings that point to these databases, with few partitions."""
    own = {
        "redis_url": SecretStr(redis_url), "database_url": SecretStr(database_url), "data_dir": directory / ".issuer",
    }  # fmt: skip
    return _common_settings().model_copy(update=own)


@cache
def _common_settings() -> Settings:
    return Settings(partitions=4, max_backlog=100_000, heartbeat_ms=50)

"""The settings of every session with Postgres."""

from __future__ import annotations

import asyncio
from datetime import date
from uuid import uuid4

import asyncpg
import pytest

from issuer.settings import Settings
from issuer.storage import known_types
from issuer.storage.postgres import close_pool, connect_pool, own_connection, stateless
from issuer.storage.stores import Stores
from tests.support.worker_process import eventually


async def test_a_statement_ends_with_its_process(settings: Settings, stores: Stores) -> None:
    async def is_running() -> bool:
        return bool(
            await stores.postgres.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE datname = current_database() AND query = 'SELECT pg_sleep(600)' AND state = 'active')"
            )
        )

    async def has_ended() -> bool:
        return not await is_running()

    async with own_connection(settings) as connection:
        running = asyncio.create_task(connection.execute("SELECT pg_sleep(600)"))
        await eventually(is_running, "the statement runs")
        # As after kill -9: the socket is closed, without a request to cancel the statement.
        connection.terminate()
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await running
        await eventually(has_ended, "the statement has ended")


async def test_a_process_asks_once_for_each_array_type(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a process that has just started.
    monkeypatch.setattr(known_types, "_known", {})
    given = [uuid4()], [date(2030, 1, 2)], [[1, 2], [3, None]]
    query = "SELECT $1::uuid[], $2::date[], $3::bigint[]"
    asked: list[list[str]] = []
    for _ in range(2):
        async with own_connection(settings) as connection:
            sent: list[str] = []
            connection.add_query_logger(lambda query, sent=sent: sent.append(query.query))
            (row,) = await connection.fetch(query, *given)
            assert tuple(row) == given
            # A type of this database is asked for by each connection: its number is another one elsewhere.
            await connection.execute("CREATE TYPE pg_temp.colour AS ENUM ('red')")
            assert await connection.fetchval("SELECT '{red}'::pg_temp.colour[]") == ["red"]
            asked.append([text for text in sent if "typeinfo_tree" in text])
    assert (len(asked[0]), len(asked[1])) == (2, 1)


async def test_a_connection_is_reset_unless_its_user_leaves_nothing_behind(settings: Settings) -> None:
    pool = await connect_pool(settings, size=1)
    statements: list[str] = []
    try:
        async with pool.acquire() as connection:
            connection.add_query_logger(lambda record: statements.append(record.query))
            await connection.execute("SET timezone = 'Asia/Tokyo'")
        assert "RESET ALL" in statements.pop()
        statements.clear()
        assert await pool.fetchval("SELECT current_setting('timezone') WHERE $1", True) == "UTC"
        async with stateless(pool) as connection, connection.transaction():
            await connection.execute("SET LOCAL timezone = 'Asia/Tokyo'")
        assert await pool.fetchval("SHOW timezone") == "UTC"
        with pytest.raises(asyncpg.DivisionByZeroError):
            await pool.execute("SELECT 1 / $1::int", 0)
        assert not [statement for statement in statements if "RESET" in statement]
        # Each exception is for one use.
        await pool.execute("SET timezone = 'Asia/Tokyo'")
        assert await pool.fetchval("SHOW timezone") == "UTC"
    finally:
        await close_pool(pool)

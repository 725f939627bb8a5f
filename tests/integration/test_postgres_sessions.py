"""The settings of every session with Postgres."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from issuer.settings import Settings
from issuer.storage.postgres import own_connection
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

"""A Postgres server that may be killed, with a migrated database for each scenario to clone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from issuer.settings import Settings
from issuer.storage.migrate import migrate
from tests.faults.play import TEMPLATE
from tests.support.servers import PostgresServer


@contextmanager
def fault_postgres(directory: Path) -> Iterator[PostgresServer]:
    """Not durable against a power cut, but against kill -9: what this suite does to it."""
    with PostgresServer(directory, durable=False, options={"full_page_writes": "on"}) as server:
        server.psql(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(migrate(Settings(database_url=SecretStr(server.url(TEMPLATE)))))
        yield server

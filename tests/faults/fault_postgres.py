"""A Postgres server that scenarios may kill, with a migrated database that each of them clones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from issuer.settings import Settings
from issuer.storage.migrate import migrate
from tests.faults.scenario import TEMPLATE
from tests.support.servers import PostgresServer


@contextmanager
def fault_postgres(directory: Path) -> Iterator[PostgresServer]:
    """Run the server. It is durable against kill -9, which this suite uses, but not against a power cut."""
    with PostgresServer(directory, durable=False, options={"full_page_writes": "on"}) as server:
        server.psql(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(migrate(Settings(database_url=SecretStr(server.url(TEMPLATE)))))
        yield server

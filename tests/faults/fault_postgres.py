"""A Postgres server that scenarios may kill, with a migrated database that each of them clones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.scenario import TEMPLATE
from tests.support.databases import create_migrated
from tests.support.servers import PostgresServer


@contextmanager
def fault_postgres(directory: Path) -> Iterator[PostgresServer]:
    """Run the server. It is durable against kill -9, which this suite uses, but not against a power cut."""
    with PostgresServer(directory, durable=False, options={"full_page_writes": "on"}) as server:
        create_migrated(server, TEMPLATE)
        yield server

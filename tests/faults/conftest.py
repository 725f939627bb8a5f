"""The Postgres server of the fault suite, which the scenarios kill, so other tests do not share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.fault_postgres import fault_postgres
from tests.support.servers import PostgresServer


@pytest.fixture(scope="session")
def breakable_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with fault_postgres(tmp_path_factory.mktemp("fault-postgres")) as server:
        yield server

"""A program refuses to start with data of another version, and names the reason."""

from __future__ import annotations

import subprocess
import sys

import asyncpg
import pytest

from issuer.settings import Settings
from loadtest.processes import free_port
from tests.support.environment import environment_of

PROGRAMS = {
    "api": [sys.executable, "-m", "issuer", "serve", "--port"],
    "worker": [sys.executable, "-m", "sync_worker"],
}
WRONG = {
    "newer schema": ("UPDATE alembic_version SET version_num = '9999'", "9999"),
    "no schema": ("DROP TABLE alembic_version", "issuer migrate"),
    "other key format": (
        "INSERT INTO installation (partitions, key_format, event_format, max_backlog) VALUES (4, 99, 1, 10)",
        "key format 99",
    ),
    "newer events": (
        "INSERT INTO installation (partitions, key_format, event_format, max_backlog) VALUES (4, 1, 99, 10)",
        "event format 99",
    ),
    "other partitions": (
        "INSERT INTO installation (partitions, key_format, event_format, max_backlog) VALUES (5, 1, 1, 10)",
        "ISSUER_PARTITIONS is 4",
    ),
}


@pytest.mark.parametrize(
    "wrong", [pytest.param(wrong, marks=() if wrong == "newer schema" else pytest.mark.long) for wrong in WRONG]
)
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_refuses_data_of_another_version(settings: Settings, program: str, wrong: str) -> None:
    sql, message = WRONG[wrong]
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
    command = PROGRAMS[program] + ([str(free_port())] if program == "api" else [])
    done = subprocess.run(command, env=environment_of(settings), capture_output=True, text=True, timeout=60)  # noqa: ASYNC221
    assert done.returncode not in (0, None)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

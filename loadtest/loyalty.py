"""The section of points: earn and spend over HTTP, on one account and on many, beside one transaction per request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import Terms
from loadtest.drivers import Load, Target
from loadtest.installation import BenchInstallation
from loadtest.measuring import Measured, MeasuredInstallation
from loadtest.points_way import FILL, TABLE
from loadtest.processes import LoggedProgram, accepts, free_port, python_module
from loadtest.runs import CONNECTIONS, Bench

ACCOUNTS: Final = 100_000
STATEMENT_LIMIT_S: Final = 3_600.0
_NONE: Final = UUID(int=0)

# Accounts with a billion points each, as one adjustment has left them.
_MEMBERS: Final = """
INSERT INTO members (id, client_id, ref)
SELECT md5($1::text || i)::uuid, $2, 'member-' || i FROM generate_series($3::bigint, $4::bigint) AS i"""
_ACCOUNTS: Final = """
WITH opened AS (
  INSERT INTO accounts (program_id, member_id, seq, available)
  SELECT $1, md5($2::text || i)::uuid, 1, 1000000000 FROM generate_series($3::bigint, $4::bigint) AS i RETURNING id),
filled AS (INSERT INTO buckets (account_id, expires_at, points) SELECT id, '9999-12-30', 1000000000 FROM opened)
INSERT INTO entries (account_id, seq, op, points, available, held, pending, debt, lifetime, reason, terms_number,
  occurred_at)
SELECT id, 1, 'adjust_up', 1000000000, 1000000000, 0, 0, 0, 0, 'benchmark', 1, now() FROM opened"""
_SOME: Final = "SELECT member_id FROM accounts WHERE program_id = $1 ORDER BY random() LIMIT $2"


async def make_accounts(postgres: asyncpg.Pool[asyncpg.Record], count: int) -> UUID:
    """Create a program with `count` accounts. Return its id."""
    client_id = uuid4()
    program = await create_program(postgres, client_id, "benchmark", Terms(), actor="cli:bench")
    step = 1_000_000
    for first in range(1, count + 1, step):
        last = min(count, first + step - 1)
        salt = program.id.hex
        await postgres.execute(_MEMBERS, salt, client_id, first, last, timeout=STATEMENT_LIMIT_S)
        await postgres.execute(_ACCOUNTS, program.id, salt, first, last, timeout=STATEMENT_LIMIT_S)
    return program.id


async def loyalty(bench: Bench) -> list[Measured]:
    """Measure earn and spend on one account and on many, also among ten million, and one transaction per request."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "loyalty") as installation:
        server = MeasuredInstallation(installation.cpu_s)
        async with points_way_server(bench, installation) as (way_loads, way):
            loads = await _loads(bench, installation)
            for _ in range(effort.rounds):
                for name, load in loads.items():
                    rounds.append(await bench.measure(name, load, server))
                for name, load in way_loads.items():
                    rounds.append(await bench.measure(name, load, way))
    return rounds


async def _loads(bench: Bench, installation: BenchInstallation) -> dict[str, Load]:
    """Create the accounts, and return the loads by case."""
    loads: dict[str, Load] = {}
    seconds = bench.effort.short_seconds
    async with installation.stores() as stores:
        for count in (1, ACCOUNTS, bench.effort.large_pool * 2):
            print(f"  creating {count:,} accounts", flush=True)
            program_id = await make_accounts(stores.postgres, count)
            rows = await stores.postgres.fetch(_SOME, program_id, ACCOUNTS, timeout=STATEMENT_LIMIT_S)
            targets = [Target(program_id, row["member_id"]) for row in rows]
            url = f"{installation.running.url}/api/v1/loyalty/programs/{program_id}/members/{{client}}"
            for op in ("earn", "spend"):
                load = Load(f"{url}/{op}", targets, seconds, CONNECTIONS, installation.api_key)
                loads[f"{op}, {_accounts(count)}"] = load
            if count == ACCOUNTS:
                loads["spend, Idempotency-Key"] = replace(load, keys=True)
        await stores.postgres.execute("VACUUM ANALYZE accounts, buckets, entries, members", timeout=STATEMENT_LIMIT_S)
        await stores.postgres.execute("CHECKPOINT", timeout=STATEMENT_LIMIT_S)
    return loads


def _accounts(count: int) -> str:
    return f"{count:,} accounts" if count > 1 else "1 account"


@asynccontextmanager
async def points_way_server(
    bench: Bench, installation: BenchInstallation
) -> AsyncIterator[tuple[dict[str, Load], MeasuredInstallation]]:
    """Run one transaction per request. Yield its loads by case and how to measure it.

    It uses a database of its own in the Postgres of the installation: the same settings and the same disk.
    """
    async with installation.postgres() as postgres:
        await postgres.execute("CREATE DATABASE points_row_lock")
    url = urlsplit(installation.database_url)._replace(path="/points_row_lock").geturl()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLE)
        await connection.execute(FILL, ACCOUNTS, timeout=STATEMENT_LIMIT_S)
        await connection.execute("VACUUM ANALYZE", timeout=STATEMENT_LIMIT_S)
    finally:
        await connection.close()
    port = free_port()
    command = python_module("loadtest.points_way", "--port", str(port), "--database-url", url)
    program = LoggedProgram(command, bench.directory / "points-way.log")
    program.start(lambda: accepts(port), "one transaction per request")
    try:
        server = f"http://127.0.0.1:{port}/{{client}}"
        loads = {
            f"row lock: {op}, {_accounts(count)}": Load(
                f"{server}/{op}", [Target(_NONE, UUID(int=number)) for number in range(1, count + 1)],
                bench.effort.short_seconds, CONNECTIONS,
            )
            for count in (1, ACCOUNTS) for op in ("earn", "spend")
        }  # fmt: skip
        yield loads, MeasuredInstallation.of_process(program.pid, installation.cpu_s)
    finally:
        program.stop()

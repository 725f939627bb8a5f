"""The section of points: earn and spend over HTTP, on one account and on many, beside one transaction per request."""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import Terms
from loadtest.baselines import STATEMENT_LIMIT_S, points_way_server
from loadtest.drivers import Load, Target
from loadtest.installation import BenchInstallation
from loadtest.measuring import Measured, MeasuredInstallation
from loadtest.runs import CONNECTIONS, Bench

ACCOUNTS: Final = 100_000

# Accounts with a billion points each, as one adjustment has left them.
_MEMBERS: Final = """
INSERT INTO members (id, client_id, ref)
SELECT md5($1::text || i)::uuid, $2, 'member-' || i FROM generate_series($3::bigint, $4::bigint) AS i"""
_ACCOUNTS: Final = """
WITH opened AS (
  INSERT INTO accounts (program_id, member_id, seq, available, buckets)
  SELECT $1, md5($2::text || i)::uuid, 1, 1000000000, '[[253402128000000, 1000000000]]'
  FROM generate_series($3::bigint, $4::bigint) AS i RETURNING id)
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
    """Measure earn and spend on one account, on many and on many of ten million, beside one transaction per request."""
    rounds = []
    with BenchInstallation(bench.directory / "loyalty") as installation:
        server = MeasuredInstallation(installation.cpu_s)
        async with points_way_server(bench.directory, installation, ACCOUNTS) as (way_loads, way):
            loads = await _loads(bench, installation)
            ways: dict[str, Load] = {}
            for count, load in way_loads.items():
                timed = replace(load, seconds=bench.effort.short_seconds)
                ways |= {f"row lock: {case}": load for case, load in _cases(timed, count).items()}
            for _ in range(bench.effort.rounds):
                for name, load in loads.items():
                    rounds.append(await bench.measure(name, load, server))
                    if (other := ways.get(f"row lock: {name}")) is not None:
                        rounds.append(await bench.measure(f"row lock: {name}", other, way))
    return rounds


def _cases(load: Load, count: int) -> dict[str, Load]:
    """Return the loads by case. The URL of `load` lacks the operation."""
    accounts = f"{count:,} accounts" if count > 1 else "1 account"
    earn, spend = (replace(load, url=f"{load.url}/{op}") for op in ("earn", "spend"))
    return {
        f"earn, {accounts}": earn,
        f"spend, {accounts}": spend,
        f"spend, Idempotency-Key, {accounts}": replace(spend, keys=True),
    }


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
            loads |= _cases(Load(url, targets, seconds, CONNECTIONS, installation.api_key), count)
        await stores.postgres.execute("VACUUM ANALYZE accounts, entries, members", timeout=STATEMENT_LIMIT_S)
        await stores.postgres.execute("CHECKPOINT", timeout=STATEMENT_LIMIT_S)
    return loads

"""Random operations through executors in two processes on one Postgres, compared with the model as the clock moves."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from pydantic import SecretStr

from issuer.loyalty.operations import TransferOut
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.reading import buckets_of
from issuer.loyalty.reconcile import reconcile_points
from issuer.settings import Settings
from issuer.storage.postgres import Pool, close_pool, connect_pool
from tests.support.databases import clone_database, drop_database
from tests.support.points import CLIENT
from tests.support.points_model import Conditions, ModelAccount, PointsModel
from tests.support.points_process import ANSWERED, AskedPoints, PointsProcess, points_process
from tests.support.points_walk import ACCOUNTS, ZONES, Choice, random_terms
from tests.support.servers import PostgresServer

# In front of the catalog's, so that every statement finds it.
CLOCK: Final = """
CREATE SCHEMA clock;
CREATE TABLE clock.offsets (by interval NOT NULL);
INSERT INTO clock.offsets VALUES ('0');
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
AS 'SELECT pg_catalog.clock_timestamp() + by FROM clock.offsets'"""

ROW: Final = """
SELECT seq, available, held, pending, debt, lifetime, day, day_earned, day_spent FROM accounts WHERE id = $1"""


class MovingClock:
    """The clock of the database. It is set to a half hour: nothing becomes due in the minutes that a round takes."""

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    async def advance(self, by: timedelta) -> None:
        later = (self.now() + by).replace(minute=30, second=0, microsecond=0) + timedelta(hours=1)
        self._offset = later - datetime.now(UTC)
        await self._postgres.execute("UPDATE clock.offsets SET by = $1", self._offset)


class ServedWalk:
    """Three accounts of a program whose operations are carried out by several processes, one after the other."""

    def __init__(self, seed: int, program: Program, accounts: list[int], clock: MovingClock) -> None:
        self.draw = random.Random(seed)
        self.program, self.clock = program, clock
        self.ids = dict(zip(ACCOUNTS, accounts, strict=True))
        self.choice = Choice(self.draw, self.hold_ends)
        self.model = PointsModel()
        self.model.accounts = {number: ModelAccount(number) for number in ACCOUNTS}
        self.codes: Counter[str] = Counter()

    def hold_ends(self) -> datetime:
        return self.clock.now() + self.draw.choice((timedelta(), timedelta(hours=7, minutes=10), timedelta(days=9)))

    async def step(self, postgres: Pool, processes: list[PointsProcess]) -> None:
        account, operation, target = self.choice.step(lambda number: len(self.model.accounts[number].lines))
        key = str(self.draw.getrandbits(64)) if self.draw.random() < 0.3 else None
        asked = AskedPoints(self.ids[account], operation, None if target is None else self.ids[target], key)
        found, at = await self.draw.choice(processes).ask(asked)
        now = at or self.clock.now()
        conditions = Conditions(self.program.terms, self.program.timezone)
        if target is None:
            expected = self.model.ask(account, operation, now, conditions)
        else:
            assert isinstance(operation, TransferOut)
            expected = self.model.move(account, target, operation, now, conditions)
        assert found == expected, (operation, found, expected)
        self.codes[found] += 1
        if key is not None and found in ("ok", "replayed"):
            assert await self.draw.choice(processes).ask(asked) == (ANSWERED, None)
            self.codes["key"] += 1
        for number in {account, target or account}:
            await self.compare(postgres, number)

    async def compare(self, postgres: Pool, number: int) -> None:
        model = self.model.accounts[number]
        row = await postgres.fetchrow(ROW, self.ids[number])
        today = (model.day, model.earned_today, model.spent_today)
        assert row is not None
        assert tuple(row) == (len(model.lines), *model.figures(), *today)
        buckets = await postgres.fetchval("SELECT buckets::text FROM accounts WHERE id = $1", self.ids[number])
        assert dict(buckets_of(buckets)) == Counter(model.tokens)


@asynccontextmanager
async def moving_database(server: PostgresServer) -> AsyncIterator[Settings]:
    url = clone_database(server)
    name = url.rpartition("/")[2]
    try:
        server.psql(CLOCK, name)
        server.psql(f"ALTER DATABASE {name} SET search_path = clock, pg_catalog, public")
        yield Settings(database_url=SecretStr(url))
    finally:
        drop_database(server, url)


async def walk_served(settings: Settings, seed: int, worlds: int, rounds: int, steps: int) -> Counter[str]:
    """Walk in many worlds at once. Between rounds the clock moves."""
    draw = random.Random(seed)
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(points_process(settings)) for _ in range(2)]
        postgres = await connect_pool(settings, size=4)
        stack.push_async_callback(close_pool, postgres)
        clock = MovingClock(postgres)
        walks = [await make_walk(draw, seed + number, postgres, clock) for number in range(worlds)]

        async def some(walk: ServedWalk) -> None:
            for _ in range(steps):
                await walk.step(postgres, processes)

        for _ in range(rounds):
            await clock.advance(timedelta(hours=draw.choice((0, 1, 12, 30, 300, 900))))
            await asyncio.gather(*(some(walk) for walk in walks))
        assert (await reconcile_points(postgres)).problems == []
    return sum((walk.codes for walk in walks), Counter())


async def make_walk(draw: random.Random, seed: int, postgres: Pool, clock: MovingClock) -> ServedWalk:
    """Create a program with three accounts."""
    program = await create_program(
        postgres, CLIENT, f"Club {seed}", random_terms(draw), timezone=draw.choice(ZONES), actor="test"
    )
    rows = await postgres.fetch(
        "INSERT INTO accounts (program_id, member_id) SELECT $1, gen_random_uuid() FROM generate_series(1, 3)"
        " RETURNING id",
        program.id,
    )
    return ServedWalk(seed, program, [row["id"] for row in rows], clock)


@pytest.mark.parametrize(
    ("worlds", "rounds"), [(10, 4), pytest.param(50, 50, marks=(pytest.mark.long, pytest.mark.minutes), id="20,000")]
)
async def test_two_processes_and_the_model_never_differ(
    postgres_server: PostgresServer, worlds: int, rounds: int
) -> None:
    async with moving_database(postgres_server) as settings:
        codes = await walk_served(settings, worlds, worlds, rounds, 8)
    assert codes.total() - codes["key"] == worlds * rounds * 8
    assert codes["ok"] > codes.total() / 4

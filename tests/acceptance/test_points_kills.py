"""Exactly the points that there are, also while API processes and Postgres are killed under a crowd that spends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import psutil
import pytest

from tests.support.crowd import Crowd, CrowdAnswer, CrowdRequest, tally
from tests.support.databases import migrate_with_roles
from tests.support.points_crowd import SpendWish, make_member
from tests.support.servers import PostgresServer, RedisServer
from tests.support.service import Service, settings_of

pytestmark = pytest.mark.xdist_group("service")

SPENT: Final = """
SELECT (SELECT count(*) FROM entries WHERE op = 'spend' AND account_id = a.id) AS entries, a.seq, a.available
FROM accounts a JOIN members m ON m.id = a.member_id WHERE m.id = $1::uuid"""


async def ask_through(
    service: Service, asked: list[CrowdRequest], faults: list[Callable[[], None]], each: int
) -> dict[str | None, CrowdAnswer]:
    """Ask until each has an answer other than 503, on new connections after each loss. A fault after `each` answers."""
    final: dict[str | None, CrowdAnswer] = {}
    async with asyncio.timeout(900):
        while remaining := [wish for wish in asked if wish.key not in final]:
            try:
                async with service.crowd(connections=200) as crowd:
                    asking = asyncio.create_task(crowd.ask(remaining))
                    while faults and not asking.done():
                        await until(crowd, asking, len(crowd.answered()) + each)
                        if not asking.done():
                            await asyncio.to_thread(faults.pop(0))
                    # A killed process has closed a connection over an answer.
                    with suppress(OSError):
                        await asking
                    for wish, answer in crowd.answered():
                        if answer.status != 503:
                            final[wish.key] = answer
            except OSError:
                await asyncio.sleep(0.05)
    return final


async def until(crowd: Crowd, asking: asyncio.Task[list[CrowdAnswer]], count: int) -> None:
    while not asking.done() and len(crowd.answered()) < count:
        await asyncio.sleep(0.05)


@pytest.mark.long
@pytest.mark.minutes
async def test_kills_of_the_api_and_of_postgres_lose_and_repeat_no_spend(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    requests, points = 20_000, 7_000
    with PostgresServer(tmp_path / "postgres") as postgres:
        settings = settings_of(redis_server, postgres.url())
        await migrate_with_roles(settings)
        with Service(settings, tmp_path / "service") as service:
            path = await make_member(service, points)
            asked: list[CrowdRequest] = [
                SpendWish(uuid4(), uuid4(), key=f"k{number}", path=path) for number in range(requests)
            ]

            def kill_api() -> None:
                child = psutil.Process(service.pid_of_serve).children()[0]
                os.kill(child.pid, signal.SIGKILL)

            def kill_postgres() -> None:
                postgres.kill9()
                postgres.start()

            faults = [kill_api, kill_postgres] * 4
            final = await ask_through(service, asked, faults, 1_000)
            assert faults == []
            assert Counter(answer.status for answer in final.values()) == {201: points, 403: requests - points}, tally(
                final.values()
            )
            assert len({answer.text for answer in final.values() if answer.status == 201}) == points
            (row,) = await service.sql(SPENT, path.rpartition("/")[2])
            assert tuple(row) == (points, points + 1, 0)
            assert "all balanced" in await service.reconcile()

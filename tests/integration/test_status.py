"""`issuer status` of servers that the environment names."""

from __future__ import annotations

from pydantic import SecretStr

from issuer.recovery.status import read_status
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.api import Api
from tests.support.recording import shop_of


async def test_what_does_not_run_is_a_problem(settings: Settings, stores: Stores) -> None:
    async with shop_of(stores) as shop:
        shop.redeem()
        found = await read_status(settings)
    assert found.problems == [
        "no API process runs: start `issuer serve`",
        "no worker runs: start `python -m sync_worker`, the backlog is bounded",
    ]
    assert (found.backlog, found.open) == (1, {"batches": 1, "campaigns": 0, "coupons": 0})
    assert found.redis is not None
    assert found.postgres is not None
    assert found.since is not None


async def test_an_unavailable_store_is_a_problem(settings: Settings, stores: Stores) -> None:
    closed = {"redis_url": SecretStr("redis://127.0.0.1:1/0")}
    found = await read_status(settings.model_copy(update=closed))
    assert found.problems[-1].startswith("Redis: ")
    assert (found.redis, found.backlog, found.max_backlog) == (None, None, 100_000)

    closed = {"database_url": SecretStr("postgresql://127.0.0.1:1/issuer")}
    found = await read_status(settings.model_copy(update=closed))
    assert [problem.partition(":")[0] for problem in found.problems] == ["Postgres"]
    assert found.redis is not None

    await stores.postgres.execute("UPDATE installation SET epoch = epoch + 1")
    assert (await read_status(settings)).problems[-1].startswith("Redis: this server is not blessed")


async def test_a_running_api_and_worker_are_found(api: Api, settings: Settings) -> None:
    await api.owner.execute("INSERT INTO workers (name, seen_at) VALUES ('w1', now())")
    while (found := await read_status(settings)).problems:
        assert found.problems == ["no API process runs: start `issuer serve`"]
    assert (len(found.api_processes or ()), found.workers) == (1, ["w1"])

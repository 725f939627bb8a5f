"""Faults of coupons. (Every other scenario has a coupon in its traffic too.)"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from functools import partial
from typing import Final

from tests.faults.scenario import ScenarioContext, scenario
from tests.faults.world import FaultWorld
from tests.support.servers import wait_until

USES: Final = 7_000
REQUESTS: Final = 20_000


@scenario(coupon_uses=USES, only_coupon=True, clients=64)
def coupon_used_up_under_kills(context: ScenarioContext) -> None:
    """20,000 requests for 7,000 uses while Redis and the API processes are killed: exactly 7,000 uses are granted."""
    world = context.world
    while world.traffic.granted < USES - 500 and not _used_up(world):
        # Uses whose answers a kill takes away count for the coupon and not for the traffic: it may be used up before.
        goal = world.traffic.granted + context.rng.randint(150, 600)
        wait_until(partial(_reached, world, goal), f"{goal} uses, or none left", 30)
        world.fault("redis kill -9")
        world.redis.kill9()
        api = context.rng.choice(world.apis)
        world.fault("api kill -9")
        api.kill9()
        time.sleep(context.pick(0, 0.2))
        world.redis.start()
        api.start()
    wait_until(lambda: len(world.traffic.attempts) >= REQUESTS, "20,000 requests", 120)
    wait_until(lambda: _in_ledger(world) >= USES, "all uses are in the ledger", 30)
    if (count := _in_ledger(world)) != USES:
        raise RuntimeError(f"{count} uses of {USES} are in the ledger")


def _reached(world: FaultWorld, goal: int) -> bool:
    return world.traffic.granted >= goal or _used_up(world)


def _used_up(world: FaultWorld) -> bool:
    return any(attempt.answer == "coupon_used_up" for attempt in list(world.traffic.attempts))


def _in_ledger(world: FaultWorld) -> int:
    return int(world.sql("SELECT count(*) AS n FROM consumptions")[0]["n"])


@scenario(missing=True)
def coupon_uses_reversed_while_redis_is_wiped(context: ScenarioContext) -> None:
    """Reverse uses before, during and after a loss of all Redis data: each reversal returns exactly one use."""
    world = context.world
    for number in range(context.rounds):
        context.run_traffic()
        names = _consumptions(world)[20 * number : 20 * (number + 1)]
        reversed_count = sum(_reverse(world, name) == 200 for name in names[:10])
        at = world.fault("redis wiped")
        with world.redis.client() as client:
            client.flushall()
        for name in names:
            _reverse(world, name)
        world.await_code(at)
        for name in names:
            status = _reverse(world, name)
            if status not in (404, 409):
                raise RuntimeError(f"a repeated reversal, or one of a lost use, returned {status}")
        if reversed_count == 0:
            raise RuntimeError("no use was reversed before the loss")


def _consumptions(world: FaultWorld) -> list[str]:
    """Return the ids of granted uses, the oldest first: those are in the ledger."""
    wait_until(lambda: _in_ledger(world) > 40, "uses are in the ledger")
    return [
        attempt.answer
        for attempt in list(world.traffic.attempts)
        if attempt.request.batch.code and attempt.status == 200 and not attempt.replayed
    ]


def _reverse(world: FaultWorld, name: str) -> int:
    """Repeat a reversal until its outcome is known. Return the status."""
    url = f"http://127.0.0.1:{world.traffic.ports[0]}/coupon/consume/{name}/reverse"
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                return error.code
        except OSError:
            if time.monotonic() > deadline:
                return 0
        time.sleep(0.1)

"""Coupons, with everything against them. (They are part of the traffic of every other scenario too.)"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import Final

from tests.faults.play import FaultStage, scenario
from tests.faults.world import FaultWorld
from tests.support.servers import wait_until

USES: Final = 7_000
REQUESTS: Final = 20_000


@scenario(coupon_uses=USES, only_coupon=True, clients=64)
def coupon_used_up_under_kills(stage: FaultStage) -> None:
    """20,000 requests for 7,000 uses, while Redis and the API processes are killed: 7,000 it is, and each once."""
    world = stage.world
    while world.traffic.granted < USES - 500 and not _used_up(world):
        stage.play_on(600)
        world.fault("redis kill -9")
        world.redis.kill9()
        api = stage.rng.choice(world.apis)
        world.fault("api kill -9")
        api.kill9()
        time.sleep(stage.pick(0, 0.2))
        world.redis.start()
        api.start()
    wait_until(lambda: len(world.traffic.attempts) >= REQUESTS, "20,000 requests", 120)
    wait_until(lambda: _in_ledger(world) >= USES, "all uses are in the ledger", 30)
    if (count := _in_ledger(world)) != USES:
        raise RuntimeError(f"{count} uses of {USES} are in the ledger")


def _used_up(world: FaultWorld) -> bool:
    return any(attempt.answer == "coupon_used_up" for attempt in list(world.traffic.attempts))


def _in_ledger(world: FaultWorld) -> int:
    return int(world.sql("SELECT count(*) AS n FROM consumptions")[0]["n"])


@scenario(loss=True, missing=True)
def coupon_uses_reversed_while_redis_is_wiped(stage: FaultStage) -> None:
    """Reversals before, while and after everything in Redis is lost: each gives one use back, and only one."""
    world = stage.world
    for number in range(stage.rounds):
        stage.play_on()
        names = _consumptions(world)[20 * number : 20 * (number + 1)]
        given_back = sum(_reverse(world, name) == 200 for name in names[:10])
        at = world.fault("redis wiped")
        with world.redis.client() as client:
            client.flushall()
        for name in names:
            _reverse(world, name)
        world.await_good(at)
        for name in names:
            status = _reverse(world, name)
            if status not in (404, 409):
                raise RuntimeError(f"a reversal that was made, or is of a lost use, answers {status}")
        if given_back == 0:
            raise RuntimeError("nothing was given back before the loss")


def _consumptions(world: FaultWorld) -> list[str]:
    """Ids of uses that customers were told of, the first ones first: those are in the ledger."""
    wait_until(lambda: _in_ledger(world) > 40, "uses are in the ledger")
    return [
        attempt.answer
        for attempt in list(world.traffic.attempts)
        if attempt.wish.shop.code and attempt.status == 200 and not attempt.replayed
    ]


def _reverse(world: FaultWorld, name: str) -> int:
    """The last status of a reversal that is asked for until it is known."""
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

"""The network between API and Redis, worker and Redis, worker and Postgres, API and Postgres misbehaves."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tests.faults.play import FaultStage, scenario
from tests.support.servers import wait_until


def _torment(stage: FaultStage, way: str, request: bytes) -> None:
    """Every fault that the proxy knows, in any order, on one way. `request`: something that is sent there."""
    world = stage.world
    proxy = world.proxies[way]

    def fault(kind: str) -> None:
        stage.play_on(100)
        world.fault(f"{way}: {kind}")

    def cut() -> None:
        fault("cut")
        proxy.cut()

    def reply_lost() -> None:
        fault("reply lost")
        proxy.reset_after(request)
        wait_until(lambda: not proxy.is_armed, "a request has passed")

    def reply_truncated() -> None:
        fault("reply truncated")
        proxy.truncate_next_reply(stage.rng.randint(0, 40))
        wait_until(lambda: not proxy.is_armed, "a reply has passed")

    def delayed() -> None:
        fault("delayed")
        with proxy.delaying(stage.pick(0.05, 0.4)):
            time.sleep(0.8)

    def held() -> None:
        directions = stage.rng.choice((("up",), ("down",), ("up", "down")))
        fault("held")
        with proxy.holding(*directions):
            time.sleep(stage.pick(0.3, 1.0, 2.5))
        if stage.rng.random() < 0.5:
            proxy.cut()

    def mute() -> None:
        fault("accepts and says nothing")
        with proxy.mute():
            time.sleep(stage.pick(0.3, 1.5))

    faults = [cut, reply_lost, reply_truncated, delayed, held, mute]
    for _ in range(stage.rounds):
        stage.rng.shuffle(faults)
        for act in faults:
            act()
            world.await_good(time.monotonic())


@scenario(through=("api-redis",))
def network_api_to_redis(stage: FaultStage) -> None:
    """A call whose answer is lost is recognised when it comes again."""
    _torment(stage, "api-redis", b"EVALSHA")


@scenario(through=("worker-redis",))
def network_worker_to_redis(stage: FaultStage) -> None:
    """Entries that were delivered to a dead connection are read again; an ack that was lost is repeated."""
    _torment(stage, "worker-redis", b"EVALSHA")


@scenario(through=("worker-postgres",))
def network_worker_to_postgres(stage: FaultStage) -> None:
    """A commit whose answer is lost is written again, and changes nothing then."""
    _torment(stage, "worker-postgres", b"COMMIT")


@scenario(through=("api-postgres", "worker-postgres"), environment={"ISSUER_MAX_BACKLOG": "50000"})
def postgres_unreachable(stage: FaultStage) -> None:
    """Nobody can reach Postgres for a while: redemptions go on."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("postgres unreachable")
        with ExitStack() as stack:
            for proxy in world.proxies.values():
                stack.enter_context(proxy.holding("up", "down"))
            time.sleep(2)
            world.await_good(at)
            stage.play_on(100)
        if stage.rng.random() < 0.5:
            for proxy in world.proxies.values():
                proxy.cut()

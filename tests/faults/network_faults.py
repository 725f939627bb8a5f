"""Network faults between API or worker and Redis or Postgres."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tests.faults.scenario import ScenarioContext, scenario
from tests.support.servers import wait_until


def _inject_faults(context: ScenarioContext, route: str, request: bytes) -> None:
    """Inject every fault of the proxy on one route, in random order. `request`: bytes that requests there contain."""
    world = context.world
    proxy = world.proxies[route]

    def fault(kind: str) -> None:
        context.run_traffic(100)
        world.fault(f"{route}: {kind}")

    def cut() -> None:
        fault("cut")
        proxy.cut()

    def reply_lost() -> None:
        fault("reply lost")
        proxy.reset_after(request)
        wait_until(lambda: not proxy.is_armed, "a request has passed")

    def reply_truncated() -> None:
        fault("reply truncated")
        proxy.truncate_next_reply(context.rng.randint(0, 40))
        wait_until(lambda: not proxy.is_armed, "a reply has passed")

    def delayed() -> None:
        fault("delayed")
        with proxy.delaying(context.pick(0.05, 0.4)):
            time.sleep(0.8)

    def held() -> None:
        directions = context.rng.choice((("up",), ("down",), ("up", "down")))
        fault("held")
        with proxy.holding(*directions):
            time.sleep(context.pick(0.3, 1.0, 2.5))
        if context.rng.random() < 0.5:
            proxy.cut()

    def mute() -> None:
        fault("accepts without answering")
        with proxy.mute():
            time.sleep(context.pick(0.3, 1.5))

    faults = [cut, reply_lost, reply_truncated, delayed, held, mute]
    for _ in range(context.rounds):
        context.rng.shuffle(faults)
        for inject in faults:
            inject()
            world.await_code(time.monotonic())


@scenario(through=("api-redis",))
def network_api_to_redis(context: ScenarioContext) -> None:
    """A call whose reply is lost is repeated with its call id and recognised."""
    _inject_faults(context, "api-redis", b"EVALSHA")


@scenario(through=("worker-redis",))
def network_worker_to_redis(context: ScenarioContext) -> None:
    """Entries delivered to a broken connection are read again; a lost ack is repeated."""
    _inject_faults(context, "worker-redis", b"EVALSHA")


@scenario(through=("worker-postgres",))
def network_worker_to_postgres(context: ScenarioContext) -> None:
    """A transaction whose commit reply is lost is repeated and changes nothing."""
    _inject_faults(context, "worker-postgres", b"COMMIT")


@scenario(through=("api-postgres", "worker-postgres"), environment={"ISSUER_MAX_BACKLOG": "50000"})
def postgres_unreachable(context: ScenarioContext) -> None:
    """Postgres is unreachable from all processes for a while: redemptions continue."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("postgres unreachable")
        with ExitStack() as stack:
            for proxy in world.proxies.values():
                stack.enter_context(proxy.holding("up", "down"))
            time.sleep(2)
            world.await_code(at)
            context.run_traffic(100)
        if context.rng.random() < 0.5:
            for proxy in world.proxies.values():
                proxy.cut()

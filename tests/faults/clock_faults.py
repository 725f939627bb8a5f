"""The clock of Redis' host steps, ahead and back, while customers redeem."""

from __future__ import annotations

import time
from typing import Final

from tests.faults.scenario import ScenarioContext, ScenarioFunction, scenario
from tests.faults.world_database import wait_for_more

HOUR_S: Final = 3_600
STEPS_S: Final = {"4_s": 4, "6_s": 6, "1_h": HOUR_S, "370_days": 370 * 24 * HOUR_S}
TOLERATED_S: Final = 5


def _clock_steps(name: str, step_s: int) -> ScenarioFunction:
    def act(context: ScenarioContext) -> None:
        """Within the tolerance the clock is followed. Beyond it nothing is granted, ended or started by it."""
        world = context.world
        assert world.clock is not None
        for _ in range(context.rounds):
            for step in context.rng.sample((step_s, -step_s), 2):
                context.run_traffic(150)
                at = world.fault(f"clock of redis {step:+d} s")
                world.clock.step(step)
                if step_s < TOLERATED_S:
                    world.await_code(at)
                    context.run_traffic(50)
                else:
                    wait_for_more(lambda: world.traffic.refused("not_ready"), 30, "nothing is issued by a wrong clock")
                    context.pause(2.0)
                world.clock.step(0)
                world.await_code(time.monotonic())
        newest = world.sql("SELECT max(redeemed_at) - now() AS ahead FROM redemptions")[0]["ahead"]
        assert newest.total_seconds() < TOLERATED_S, f"redeemed {newest} ahead of Postgres' clock"

    act.__name__ = f"redis_clock_steps_{name}"
    return act


for _name, _step_s in STEPS_S.items():
    scenario(clock=True)(_clock_steps(_name, _step_s))

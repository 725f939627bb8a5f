"""One run of the benchmark: its effort, and the rounds that it measures and prints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.drivers import Driver, Load, Target
from loadtest.installation import BenchInstallation
from loadtest.measuring import Measured, MeasuredInstallation, measure

CONNECTIONS = 64
SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Effort:
    """The duration of a run and the size of its stock."""

    rounds: int
    seconds: float
    """Duration of one round of the headline cases."""
    short_seconds: float
    """Duration of one round of all other cases."""
    at_least: int
    """Redemptions of a headline round, which lasts longer than `seconds` if necessary."""
    fastest_per_s: int
    """The highest rate that the stock must be sufficient for."""
    large_pool: int
    middle_pool: int
    batches: tuple[int, ...]

    @property
    def stock(self) -> int:
        return max(self.at_least * 3 // 2, int(self.seconds * self.fastest_per_s))

    @property
    def short_stock(self) -> int:
        return int(self.short_seconds * self.fastest_per_s)


THOROUGH = Effort(3, 20.0, 8.0, 200_000, 30_000, 5_000_000, 1_000_000, (1, 100, 10_000))
QUICK = Effort(2, 4.0, 2.0, 0, 30_000, 200_000, 50_000, (1, 100, 1_000))


class Bench:
    """One run of the benchmark: its directory, its load driver and its effort."""

    def __init__(self, directory: Path, driver: Driver, effort: Effort) -> None:
        self.directory = directory
        self.driver = driver
        self.effort = effort

    async def measure(self, case: str, load: Load, server: MeasuredInstallation, *, refused: bool = False) -> Measured:
        """Measure one round of a case and print it. `refused`: the case expects refusals."""
        # The connections that created the stock close first, so that their CPU time does not move to the parent
        # process during the measurement.
        await asyncio.sleep(SETTLE_S)
        measured = await measure(case, self.driver, load, server, refused=refused)
        cpu = " ".join(f"{role} {us:.1f}" for role, us in measured.cpu_us.items())
        print(
            f"  {case:34} {measured.per_s:9,.0f}/s  p50 {measured.p50_ms:6.2f} ms  p99 {measured.p99_ms:7.2f} ms"
            f"  catch-up {measured.catch_up_s:5.2f} s  CPU µs: {cpu}",
            flush=True,
        )
        return measured

    def load(self, installation: BenchInstallation, targets: Sequence[Target], seconds: float, **more: object) -> Load:
        return Load(
            installation.redeem_url, targets, seconds, api_key=installation.api_key,
            **{"connections": CONNECTIONS, **more},  # type: ignore[arg-type]
        )  # fmt: skip

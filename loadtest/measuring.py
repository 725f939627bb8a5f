"""Measure one round: rate, latency, CPU time by role, catch-up of the ledger. Compute medians of several rounds."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtest.drivers import Driver, Load, Sent
from loadtest.installation import BenchInstallation
from loadtest.processes import machine_cpu_s, process_table


class UnexpectedAnswersError(Exception):
    """The load received other responses than its case expects, so the figures would be meaningless."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one round of one case. `per_s` includes the time until the ledger caught up."""

    case: str
    requests: int
    per_s: float
    seconds: float
    catch_up_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: dict[str, float]
    """CPU time per request in microseconds, by role."""
    busy: float
    """Share of the CPU time of the machine that all its processes used."""
    stolen: float


@dataclass(frozen=True, slots=True)
class MeasuredInstallation:
    """The target of a load: its CPU seconds by role, and the catch-up that ends a round."""

    cpu_s: Callable[[], Mapping[str, float]]
    catch_up_s: Callable[[], Awaitable[float]] | None = None

    @classmethod
    def of_installation(cls, installation: BenchInstallation) -> MeasuredInstallation:
        return cls(installation.cpu_s, installation.catch_up_s)

    @classmethod
    def of_process(cls, pid: int, others: Callable[[], Mapping[str, float]] | None = None) -> MeasuredInstallation:
        """Measure a single program. `others`: CPU seconds of an installation whose Postgres it uses."""

        def cpu_s() -> Mapping[str, float]:
            shared = others() if others else {}
            return {"api": process_table()[pid].cpu_s, **{r: s for r, s in shared.items() if r == "postgres"}}

        return cls(cpu_s)


async def measure(
    case: str, driver: Driver, load: Load, server: MeasuredInstallation, *, refused: bool = False
) -> Measured:
    """Send the load and wait for the ledger. `refused`: the case expects refusals.

    Raises UnexpectedAnswersError if more than one response in a thousand is of the other kind.
    """
    machine, before = machine_cpu_s(), server.cpu_s()
    sent = await driver.send(load)
    catch_up_s = await server.catch_up_s() if server.catch_up_s else 0.0
    after, machine_after = server.cpu_s(), machine_cpu_s()
    _check(case, sent, refused)
    spent = {role: (after[role] - before[role]) / sent.requests * 1e6 for role in after}
    used = {kind: machine_after[kind] - machine[kind] for kind in machine}
    total = sum(used.values()) or 1.0
    return Measured(
        case, sent.requests, sent.requests / (sent.seconds + catch_up_s), sent.seconds, catch_up_s, sent.p50_ms,
        sent.p90_ms, sent.p99_ms, sent.max_ms, {**spent, "driver": sent.driver_cpu_s / sent.requests * 1e6},
        used["busy"] / total, used["stolen"] / total,
    )  # fmt: skip


def _check(case: str, sent: Sent, refused: bool) -> None:
    unexpected = sent.granted if refused else sent.refused
    if (unexpected + sent.socket_errors) * 1_000 > sent.requests:
        kind = "granted" if refused else "refused"
        raise UnexpectedAnswersError(
            f"{case}: {unexpected} of {sent.requests} requests were {kind}, {sent.socket_errors} socket errors"
        )


_NUMBERS: Final = ("per_s", "seconds", "catch_up_s", "p50_ms", "p90_ms", "p99_ms", "max_ms", "busy", "stolen")


def median(rounds: Sequence[Measured]) -> dict[str, Any]:
    """Return the median of each figure over the rounds of a case, with the slowest and the fastest round."""
    summary: dict[str, Any] = {
        name: round(statistics.median(getattr(measured, name) for measured in rounds), 4) for name in _NUMBERS
    }
    roles = rounds[0].cpu_us
    summary["cpu_us"] = {r: round(statistics.median(m.cpu_us[r] for m in rounds), 2) for r in roles}
    summary["requests"] = sum(measured.requests for measured in rounds)
    summary["rounds"] = len(rounds)
    summary["slowest_per_s"] = round(min(measured.per_s for measured in rounds), 1)
    summary["fastest_per_s"] = round(max(measured.per_s for measured in rounds), 1)
    return summary


def medians(rounds: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Return the medians by case, in the order of the first measurement."""
    by_case: dict[str, list[Measured]] = {}
    for measured in rounds:
        by_case.setdefault(measured.case, []).append(measured)
    return {case: median(of_case) for case, of_case in by_case.items()}

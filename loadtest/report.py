"""The report of a run as JSON and Markdown, with plots if matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.plots import draw

GO_SERVICE_PER_S: Final = 4_500
"""The rate of an alternative in Go (gin, pgx, row locks), measured on a comparable 2-core machine."""

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure and its target. `value` is None if this run did not measure it."""

    name: str
    value: float | None
    target: float
    at_least: bool = True
    form: str = "{:.2f}"

    @property
    def is_met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def row(self) -> str:
        value = "not measured" if self.value is None else self.form.format(self.value)
        sign = "≥" if self.at_least else "≤"
        met = {None: "–", True: "yes", False: "no"}[self.is_met]
        return f"| {self.name} | {value} | {sign} {self.form.format(self.target)} | {met} |"


def _case(results: Results, section: str, case: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = results["sections"].get(section, {}).get(case)
    return found


def _ratio(results: Results, section: str, case: str, other: str) -> float | None:
    one, two = _case(results, section, case), _case(results, section, other)
    return one["per_s"] / two["per_s"] if one and two else None


def _ends(results: Results, section: str) -> tuple[str, str]:
    cases = list(results["sections"].get(section, {"": 0}))
    return cases[0], cases[-1]


def aims(results: Results) -> list[Aim]:
    redeem = _case(results, "headline", "redeem")
    half = _case(results, "headline", "redeem at half rate")
    memory = results.get("memory", {})
    script = results.get("script", {})
    figures = [
        Aim("redeem ÷ Postgres way", _ratio(results, "headline", "redeem", "postgres way"), 5),
        Aim("redeem ÷ 4,500/s of a Go service", redeem["per_s"] / GO_SERVICE_PER_S if redeem else None, 5),
        Aim("redeem ÷ floor, one API process", _ratio(results, "headline", "redeem", "floor"), 0.6),
        Aim("p99 at half of the maximum rate, ms", half["p99_ms"] if half else None, 5, at_least=False),
    ]
    for role, limit in (("api", 35), ("redis", 10), ("worker", 10), ("postgres", 12)):
        value = redeem["cpu_us"][role] if redeem else None
        figures.append(Aim(f"CPU µs per redemption: {role}", value, limit, at_least=False, form="{:.1f}"))
    fresh, batches = _ends(results, "pools"), _ends(results, "batches")
    return [
        *figures,
        Aim("script alone: redemptions per CPU s of Redis", script.get("64 per call, one limit"), 180_000,
            form="{:,.0f}"),
        Aim("with Idempotency-Key ÷ without",
            _ratio(results, "headline", "redeem, Idempotency-Key", "redeem"), 0.85),
        Aim("rate limiting on ÷ off",
            _ratio(results, "rate limit", "rate limit by key and address", "no rate limit"), 0.9),
        Aim("redeem by text ÷ by UUID", _ratio(results, "ids", "redeem by text", "redeem by UUID"), 0.95),
        Aim("consume ÷ redeem", _ratio(results, "coupons", "consume", "redeem"), 0.9),
        Aim(f"{fresh[1] or 'large used pool'} ÷ fresh small ones", _ratio(results, "pools", fresh[1], fresh[0]), 0.9),
        Aim(f"{batches[1] or 'many batches'} ÷ 1 batch", _ratio(results, "batches", batches[1], batches[0]), 0.7),
        Aim("IssueCoupon ÷ redeem", _ratio(results, "campaign", "IssueCoupon, JSON", "redeem"), 0.8),
        *_points_aims(results),
        Aim("Redis bytes per preloaded code of 20 characters", memory.get("code"), 25, at_least=False, form="{:.1f}"),
        Aim("Redis bytes per customer with limit 1", memory.get("limited_customer"), 120, at_least=False,
            form="{:.1f}"),
    ]  # fmt: skip


def _points_aims(results: Results) -> list[Aim]:
    """Points against the row lock that promises the same: with an Idempotency-Key."""
    cases = [f"spend, Idempotency-Key, {accounts}" for accounts in ("1 account", "100,000 accounts")]
    figures = [Aim(f"{case} ÷ row lock", _ratio(results, "loyalty", case, f"row lock: {case}"), 3) for case in cases]
    names = [name for name in results["sections"].get("loyalty", {}) if name.startswith("spend, Idempotency-Key")]
    costs = [sum(cpu[role] for role in ("api", "postgres")) for cpu in (_cpu(results, name) for name in names[-2:])]
    growth = costs[1] / costs[0] if len(names) > 2 else None
    return [*figures, Aim("CPU per spend among ten million accounts ÷ 100,000", growth, 1.1, at_least=False)]


def _cpu(results: Results, case: str) -> dict[str, float]:
    found: dict[str, float] = results["sections"]["loyalty"][case]["cpu_us"]
    return found


def aims_table(results: Results) -> str:
    lines = ["| figure | measured | aim | met |", "|---|---|---|---|"]
    return "\n".join([*lines, *(aim.row() for aim in aims(results))])


def _section_table(cases: dict[str, dict[str, Any]]) -> str:
    roles = list(dict.fromkeys(role for case in cases.values() for role in case["cpu_us"]))
    heads = ["case", "per second", "slowest–fastest", "p50 ms", "p99 ms", "catch-up s", "machine busy"]
    heads += [f"CPU µs {role}" for role in roles]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name, case in cases.items():
        cells = [
            name, f"{case['per_s']:,.0f}", f"{case['slowest_per_s']:,.0f}–{case['fastest_per_s']:,.0f}",
            f"{case['p50_ms']:.2f}", f"{case['p99_ms']:.2f}", f"{case['catch_up_s']:.2f}", f"{case['busy']:.0%}",
        ]  # fmt: skip
        lines.append(_row([*cells, *(f"{case['cpu_us'].get(role, 0):.1f}" for role in roles)]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(results: Results) -> str:
    """Return the whole report as Markdown."""
    machine, settings = results["machine"], results.get("settings", {})
    parts = [
        "# Benchmark",
        f"{results['started_at']}, {machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"{machine['system']}. Load: {results['driver']}, on the same machine."
        + (" **A quick run; the figures are rough.**" if results["quick"] else ""),
        "Settings: " + ", ".join(f"{name} {value}" for name, value in settings.items()) + ".",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in results["versions"].items()) + ".",
        aims_table(results),
    ]
    for name, cases in results["sections"].items():
        parts += [f"## {name.capitalize()}", _section_table(cases)]
    if script := results.get("script"):
        parts += ["## The script alone", _pairs("shape", "redemptions per CPU second of Redis", script, "{:,.0f}")]
    if memory := results.get("memory"):
        parts += ["## Memory", _pairs("item", "bytes in Redis", memory, "{:.1f}")]
    return "\n\n".join(parts) + "\n"


def _pairs(left: str, right: str, values: dict[str, float], form: str) -> str:
    lines = [_row([left, right]), "|---|---|"]
    return "\n".join([*lines, *(_row([name, form.format(value)]) for name, value in values.items())])


def write(results: Results, directory: Path) -> None:
    """Write bench.json, bench.md and, with matplotlib, the plots."""
    (directory / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "bench.md").write_text(markdown(results))
    draw(results, directory)

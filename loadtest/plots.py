"""Plots of a run as SVG and PNG. They need matplotlib (the extra `bench`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

ROLES: Final = ("api", "redis", "worker", "postgres", "driver")
COLOURS: Final = {
    "api": "#2a6fbb", "redis": "#c0392b", "worker": "#d68910", "postgres": "#5d6d7e", "driver": "#bdc3c7",
}  # fmt: skip


def draw(results: dict[str, Any], directory: Path) -> list[Path]:
    """Draw a plot for each section. Return the files."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install '.[bench]')")
        return []
    matplotlib.use("Agg")
    files = []
    for name, cases in results["sections"].items():
        files += _section(name, cases, directory)
    return files


def _section(name: str, cases: dict[str, dict[str, Any]], directory: Path) -> list[Path]:
    """Draw rates with the range of the rounds on the left, CPU time by role on the right."""
    from matplotlib import pyplot

    labels, places = list(cases), range(len(cases))
    figure, (rates, costs) = pyplot.subplots(1, 2, figsize=(12, 0.5 * len(cases) + 1.8), sharey=True)
    per_s = [case["per_s"] for case in cases.values()]
    spread = [
        [case["per_s"] - case["slowest_per_s"] for case in cases.values()],
        [case["fastest_per_s"] - case["per_s"] for case in cases.values()],
    ]
    rates.barh(places, per_s, xerr=spread, color="#2a6fbb", ecolor="#1b2631", capsize=3)
    for place, case in zip(places, cases.values(), strict=True):
        rates.text(case["fastest_per_s"], place, f"   {case['per_s']:,.0f}", va="center", fontsize="small")
    rates.margins(x=0.15)
    rates.set_yticks(list(places), labels)
    rates.invert_yaxis()
    rates.set_xlabel("requests per second, ledger caught up (median; slowest and fastest round)")
    left = [0.0] * len(cases)
    for role in ROLES:
        width = [case["cpu_us"].get(role, 0.0) for case in cases.values()]
        costs.barh(places, width, left=left, color=COLOURS[role], label=role)
        left = [sum(pair) for pair in zip(left, width, strict=True)]
    # A case that costs many times as much as the others must not flatten their bars; its total is written at its end.
    widest = min(max(left), 3 * sorted(left)[len(left) // 2])
    for place, total in zip(places, left, strict=True):
        costs.text(min(total, widest), place, f"  {total:,.0f}", va="center", fontsize="small")
    costs.set_xlim(0, widest * 1.15)
    costs.set_xlabel("CPU µs per request")
    costs.legend(loc="lower right", fontsize="small")
    figure.suptitle(name)
    figure.tight_layout()
    files = [directory / f"{name.replace(' ', '-')}.{kind}" for kind in ("svg", "png")]
    for file in files:
        figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return files

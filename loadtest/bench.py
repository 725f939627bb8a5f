"""The benchmark, ``make bench``: starts what it needs, measures, reports, and stops all of it.

Every figure is one that anybody can measure again: JSON, a Markdown table and plots go to loadtest/results/, with the
machine, the versions and the settings. ``--quick`` shows in two minutes that everything works; its figures are rough.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import loadtest.report as report
from issuer.logs import configure_logs
from loadtest.drivers import best_driver
from loadtest.installation import BenchInstallation
from loadtest.measuring import medians
from loadtest.memory_cost import measure_memory
from loadtest.script_alone import SHAPES, LoneRedis, measure_script
from loadtest.sections import QUICK, SECTIONS, THOROUGH, Bench

RESULTS = Path(__file__).with_name("results")
ALONE = ("script", "memory")
"""Sections that need no installation."""
PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "redis", "hiredis", "asyncpg", "orjson")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpus": os.cpu_count(), "cpu": model, "memory_gib": round(memory_gib, 1), "system": platform.platform(),
        "load_average_at_start": os.getloadavg(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"issuer": importlib.metadata.version("issuer"), "python": platform.python_version(), **found}


async def _script(quick: bool) -> dict[str, Any]:
    """Redemptions per CPU second of Redis by shape of the call; the best of a few, since noise only slows down."""
    figures: dict[str, Any] = {}
    for _ in range(1 if quick else 3):
        with LoneRedis() as redis:
            for shape in SHAPES:
                cost = await measure_script(redis, **({"calls": 500} | shape if quick else shape))
                name = ", ".join(f"{key} {value!r}" for key, value in shape.items()) or "64 a call, one limit"
                figures[name] = max(figures.get(name, 0), round(cost.redemptions_per_cpu_s))
                print(f"  {name:44} {cost.redemptions_per_cpu_s:9,.0f} redemptions per CPU second", flush=True)
    return figures


def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="issuer-bench-"))
    # Root's Postgres runs as another user, which must get through to its data.
    directory.chmod(0o711)
    return directory


async def run(sections: list[str], output: Path, *, quick: bool) -> dict[str, Any]:
    """Measures; returns everything that the report shows. What one section found is written before the next begins."""
    effort = QUICK if quick else THOROUGH
    driver = best_driver()
    results: dict[str, Any] = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"), "quick": quick, "driver": driver.name,
        "machine": machine(), "versions": versions(), "effort": asdict(effort), "sections": {},
    }  # fmt: skip
    directory = _directory()
    try:
        bench = Bench(directory, driver, effort)
        with BenchInstallation(directory / "versions") as installation:
            results["settings"] = await installation.versions()
        for name in sections:
            print(f"{name}:", flush=True)
            if name == "script":
                results["script"] = await _script(quick)
            elif name == "memory":
                results["memory"] = await measure_memory(128_000 if quick else 256_000)
                print(f"  bytes: {results['memory']}", flush=True)
            else:
                results["sections"][name] = medians(await SECTIONS[name](bench))
            report.write(results, output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return results


def main() -> None:
    names = [*ALONE, *SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that everything works")
    parser.add_argument("--only", action="append", choices=names, help="a section; may be given several times")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for the report")
    options = parser.parse_args()
    configure_logs("error", name="bench")
    # SIGTERM ends it like Ctrl-C: whatever was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        results = asyncio.run(run(options.only or names, options.output, quick=options.quick))
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.aims_table(results))


if __name__ == "__main__":
    main()

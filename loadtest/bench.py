"""The benchmark, ``make bench``: start the servers, measure, write a report, stop the servers.

The report (JSON, Markdown and plots in loadtest/results/) contains the machine, the versions and the settings, so that
every figure can be reproduced. ``--quick`` checks in two minutes that everything works; its figures are rough.
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
from loadtest.runs import QUICK, THOROUGH, Bench
from loadtest.script_alone import SHAPES, StandaloneRedis, measure_script
from loadtest.sections import SECTIONS

RESULTS = Path(__file__).with_name("results")
STANDALONE = ("script", "memory")
"""Sections that need no installation."""
PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "redis", "hiredis", "asyncpg", "orjson")


def machine() -> dict[str, Any]:
    """Describe the machine."""
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
    """Return redemptions per CPU second of Redis by shape of call: the best round, as noise only lowers it."""
    figures: dict[str, Any] = {}
    for _ in range(1 if quick else 3):
        with StandaloneRedis() as redis:
            for shape in SHAPES:
                cost = await measure_script(redis, **({"calls": 500} | shape if quick else shape))
                name = ", ".join(f"{key} {value!r}" for key, value in shape.items()) or "64 per call, one limit"
                figures[name] = max(figures.get(name, 0), round(cost.redemptions_per_cpu_s))
                print(f"  {name:44} {cost.redemptions_per_cpu_s:9,.0f} redemptions per CPU second", flush=True)
    return figures


def bench_directory() -> Path:
    """Return a new directory for an installation."""
    directory = Path(tempfile.mkdtemp(prefix="issuer-bench-"))
    # Started by root, Postgres runs as another user, which must be able to reach its data directory.
    directory.chmod(0o711)
    return directory


async def run(sections: list[str], output: Path, *, quick: bool) -> dict[str, Any]:
    """Measure the sections and return the content of the report, which is written after each section."""
    effort = QUICK if quick else THOROUGH
    driver = best_driver()
    results: dict[str, Any] = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"), "quick": quick, "driver": driver.name,
        "machine": machine(), "versions": versions(), "effort": asdict(effort), "sections": {},
    }  # fmt: skip
    directory = bench_directory()
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
    names = [*STANDALONE, *SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run that checks that everything works")
    parser.add_argument(
        "--only", action="append", choices=names, help="a section to measure; may be given several times"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for the report")
    options = parser.parse_args()
    configure_logs("error", name="bench")
    # SIGTERM is handled like Ctrl-C: every started process is stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        results = asyncio.run(run(options.only or names, options.output, quick=options.quick))
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.aims_table(results))


if __name__ == "__main__":
    main()

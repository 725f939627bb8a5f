"""Profile an API process under load: ``python -m loadtest.profile`` (``make profile``) writes a flame graph.

py-spy samples the process from outside, so the program is unchanged. --native also samples compiled extensions;
--role selects the worker instead of the API.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from issuer.logs import configure_logs
from loadtest.bench import RESULTS
from loadtest.drivers import best_driver
from loadtest.installation import BenchInstallation
from loadtest.runs import CONNECTIONS, QUICK, Bench
from loadtest.stock import make_pool, settle

WARM_UP_S: Final = 2.0
SAMPLES_PER_SECOND: Final = 400
MAX_PER_S: Final = 35_000


class ProfilerError(Exception):
    """py-spy is not installed or lacks the permission to sample. The message says what to do."""


def _py_spy() -> str:
    installed = Path(sys.executable).with_name("py-spy")
    found = str(installed) if installed.exists() else shutil.which("py-spy")
    if found is None:
        raise ProfilerError("py-spy is not installed: pip install '.[bench]'")
    return found


async def profile(role: str, seconds: int, output: Path, *, native: bool) -> float:
    """Sample a process of `role` while redeeming at full speed. Return the rate, which the sampling lowers."""
    program = _py_spy()
    directory = Path(tempfile.mkdtemp(prefix="issuer-profile-"))
    try:
        await asyncio.to_thread(directory.chmod, 0o711)
        with BenchInstallation(directory) as installation:
            bench = Bench(directory, best_driver(), QUICK)
            async with installation.stores() as stores:
                target = await make_pool(stores, int((seconds + 2 * WARM_UP_S) * MAX_PER_S))
                await settle(stores)
            await bench.driver.send(bench.load(installation, [target], WARM_UP_S))
            command = [
                program, "record", "--pid", str(installation.pids(role)[0]), "--duration", str(seconds),
                "--rate", str(SAMPLES_PER_SECOND), "--output", str(output), *(["--native"] if native else []),
            ]  # fmt: skip
            sampler = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            load = bench.load(installation, [target], seconds + 1, connections=CONNECTIONS)
            sent, (printed, _) = await asyncio.gather(bench.driver.send(load), sampler.communicate())
            if sampler.returncode != 0:
                raise ProfilerError(f"py-spy: {printed.decode(errors='replace')[-500:]} (it may need root)")
            return sent.per_s
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.profile", description=__doc__)
    parser.add_argument("--role", choices=("api", "worker"), default="api")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--native", action="store_true", help="also sample compiled extensions (slower)")
    parser.add_argument("--output", type=Path, help="the SVG file to write")
    options = parser.parse_args()
    configure_logs("error", name="profile")
    output = options.output or RESULTS / f"flame-{options.role}.svg"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        per_s = asyncio.run(profile(options.role, options.seconds, output, native=options.native))
    except ProfilerError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{output}: {options.role} at {per_s:,.0f} redemptions per second")


if __name__ == "__main__":
    main()

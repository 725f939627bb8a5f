"""`python -m tests.faults.mutants`: apply each mutation to a copy of the program and print the test that killed it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from issuer.processes.launch import launch_command
from tests.faults.mutation import Mutation
from tests.faults.mutations import MUTATIONS

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 300
TIMED_OUT: Final = f"did not end within {LIMIT_S} s"


@dataclass(frozen=True, slots=True)
class MutantResult:
    """The scenario or test that killed a mutant. `killed_by` is empty if it survived."""

    mutation: str
    killed_by: str
    how: str
    seconds: float


def _copy(mutation: Mutation, to: Path) -> None:
    for name in ("issuer", "sync_worker", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    for edit in mutation.edits:
        file = to / edit.file
        text = file.read_text()
        if text.count(edit.old) != 1:
            raise SystemExit(f"{mutation.name}: found {text.count(edit.old)} times in {edit.file}: {edit.old!r}")
        file.write_text(text.replace(edit.old, edit.new))


def _run(command: list[str], directory: Path) -> tuple[int, str]:
    """Run a command in the copy, whose packages take precedence, also in the processes that it starts elsewhere."""
    try:
        done = subprocess.run(
            launch_command(command, death_signal=signal.SIGTERM), cwd=directory, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | {"PYTHONPATH": str(directory)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, TIMED_OUT
    return done.returncode, done.stdout + done.stderr


def _invalid_run(mutation: Mutation, what: str, text: str) -> SystemExit:
    """A copy that does not start fails every test without any test having detected the mutation."""
    return SystemExit(f"{mutation.name}: {what} could not be run:\n{text[-2_000:]}")


def run_mutant(mutation: Mutation, seeds: int) -> MutantResult:
    """Run the scenarios and tests of a mutation until one of them fails."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="issuer-mutant-") as name:
        directory = Path(name)
        _copy(mutation, directory)
        for seed in range(1, seeds + 1):
            for scenario in mutation.scenarios:
                status, text = _run([sys.executable, "-m", "tests.faults", scenario, str(seed), "2"], directory)
                if status != 0:
                    if text != TIMED_OUT and ("violations=[" not in text or "the scenario was aborted" in text):
                        raise _invalid_run(mutation, scenario, text)
                    how = text[text.find("violations=[") + 13 :].split("', '")[0][:160].replace("\n", " ")
                    return MutantResult(mutation.name, f"{scenario}, seed {seed}", how, time.monotonic() - started)
        for test in mutation.tests:
            status, text = _run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test], directory)
            failed = [line for line in text.splitlines() if line.startswith("FAILED")]
            if status not in (0, 1):  # the test does not exist or cannot be imported
                raise _invalid_run(mutation, test, text)
            if status != 0:
                node, _, how = (failed or [f"FAILED {test} - {text[-200:]}"])[0][7:].partition(" - ")
                return MutantResult(mutation.name, node, how[:160], time.monotonic() - started)
    return MutantResult(mutation.name, "", "", time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run only mutations that have this text in their name or in a file")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds for each scenario")
    options = parser.parse_args()
    survived = 0
    for mutation in MUTATIONS:
        if any(options.only in text for text in (mutation.name, *(edit.file for edit in mutation.edits))):
            result = run_mutant(mutation, options.seeds)
            survived += not result.killed_by
            print(
                f"{mutation.name}: {result.killed_by or 'SURVIVED'} after {result.seconds:.0f} s: {result.how}",
                flush=True,
            )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

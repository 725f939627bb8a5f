"""`python -m tests.faults.mutants`: breaks a copy of the program in each way and says which test noticed."""

from __future__ import annotations

import argparse
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
from tests.faults.mutations import MUTATIONS, Mutation

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 300
TOO_LATE: Final = "did not come to an end"


@dataclass(frozen=True, slots=True)
class Caught:
    """What noticed a mutation. `by` empty: nothing did."""

    mutation: str
    by: str
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
    """Runs in the copy: its packages come first because the working directory does."""
    try:
        done = subprocess.run(
            launch_command(command, death_signal=signal.SIGTERM), cwd=directory, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, TOO_LATE
    return done.returncode, done.stdout + done.stderr


def _not_a_catch(mutation: Mutation, what: str, text: str) -> SystemExit:
    """A copy that does not even start would fail every test, and no test would have noticed anything."""
    return SystemExit(f"{mutation.name}: {what} could not be played:\n{text[-2_000:]}")


def attack(mutation: Mutation, seeds: int) -> Caught:
    """Runs what should notice the mutation, until something does."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="issuer-mutant-") as name:
        directory = Path(name)
        _copy(mutation, directory)
        for seed in range(1, seeds + 1):
            for scenario in mutation.scenarios:
                status, text = _run([sys.executable, "-m", "tests.faults", scenario, str(seed), "2"], directory)
                if status != 0:
                    if text != TOO_LATE and ("violations=[" not in text or "the play broke off" in text):
                        raise _not_a_catch(mutation, scenario, text)
                    how = text[text.find("violations=[") + 13 :].split("', '")[0][:160].replace("\n", " ")
                    return Caught(mutation.name, f"{scenario}, seed {seed}", how, time.monotonic() - started)
        for test in mutation.tests:
            status, text = _run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test], directory)
            failed = [line for line in text.splitlines() if line.startswith("FAILED")]
            if status not in (0, 1):  # no such test, or one that cannot be imported
                raise _not_a_catch(mutation, test, text)
            if status != 0:
                node, _, how = (failed or [f"FAILED {test} - {text[-200:]}"])[0][7:].partition(" - ")
                return Caught(mutation.name, node, how[:160], time.monotonic() - started)
    return Caught(mutation.name, "", "", time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutations whose name holds this")
    parser.add_argument("--seeds", type=int, default=2, help="how often each scenario may try")
    options = parser.parse_args()
    missed = 0
    for mutation in MUTATIONS:
        if options.only in mutation.name:
            caught = attack(mutation, options.seeds)
            missed += not caught.by
            print(
                f"{mutation.name}: {caught.by or 'NOT NOTICED'} after {caught.seconds:.0f} s: {caught.how}", flush=True
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

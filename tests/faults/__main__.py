"""`python -m tests.faults <scenario>[,…]|all [seed] [rounds]`: run scenarios and print their results.

A seed that contains a slash is used as it is: it repeats a run of a soak.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.faults import all_scenarios
from tests.faults.fault_postgres import fault_postgres
from tests.faults.scenario import SCENARIOS, run_scenario


def main() -> int:
    names, seed, rounds = sys.argv[1].split(","), (sys.argv[2:3] or ["1"])[0], int((sys.argv[3:4] or ["1"])[0])
    assert all_scenarios.LOADED
    directory = Path(tempfile.mkdtemp(prefix="issuer-faults-"))
    failed = 0
    with fault_postgres(directory / "postgres") as postgres:
        for number, name in enumerate(SCENARIOS if names == ["all"] else names):
            result = run_scenario(
                SCENARIOS[name],
                seed if "/" in seed else f"{name}/{seed}",
                directory / f"run-{number}",
                postgres,
                rounds=rounds,
            )
            print(
                f"{name} seed {seed}: {result.seconds:.1f} s, faults {dict(result.faults)}, {result.findings}",
                flush=True,
            )
            failed += bool(result.findings.violations)
    print(f"logs: {directory}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

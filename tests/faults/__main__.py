"""`python -m tests.faults <scenario> [seed] [rounds]`: plays one scenario and says how it went.

A seed with a slash is one that a soak has named.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.faults import scenarios
from tests.faults.fault_postgres import fault_postgres
from tests.faults.play import SCENARIOS, play


def main() -> int:
    names, seed, rounds = sys.argv[1].split(","), (sys.argv[2:3] or ["1"])[0], int((sys.argv[3:4] or ["1"])[0])
    assert scenarios.LOADED
    directory = Path(tempfile.mkdtemp(prefix="issuer-faults-"))
    bad = 0
    with fault_postgres(directory / "postgres") as postgres:
        for number, name in enumerate(SCENARIOS if names == ["all"] else names):
            played = play(
                SCENARIOS[name],
                seed if "/" in seed else f"{name}/{seed}",
                directory / f"play-{number}",
                postgres,
                rounds=rounds,
            )
            print(
                f"{name} seed {seed}: {played.seconds:.1f} s, faults {dict(played.faults)}, {played.findings}",
                flush=True,
            )
            bad += bool(played.findings.violations)
    print(f"logs: {directory}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Explore the model of the recovery: make model ARGS="--faults 3 --seconds 3600".

The hash seed of Python is fixed, so that the same seed walks the same way.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from tests.recovery_model.rules import ALL_FAULTS, BOUNDS, RULES
from tests.recovery_model.scenes import SCENES
from tests.recovery_model.search import Violation, search, walk


def each(args: argparse.Namespace) -> int:
    """Take each rule away in turn; 1 if a rule was not found to be necessary."""
    missed = 0
    for rule, text in RULES.items():
        scene = SCENES[rule]
        BOUNDS.without, BOUNDS.menu, BOUNDS.faults = {rule}, scene.menu, scene.faults
        result = search(max_states=args.states, seconds=args.seconds, rest_every=4, prefix=scene.prefix)
        print(f'== without "{rule}": {text}\n{result}', flush=True)
        missed += not isinstance(result, Violation)
    return 1 if missed else 0


def explore(args: argparse.Namespace) -> int:
    for faults in range(1, args.faults + 1):
        BOUNDS.faults = faults
        result = search(max_states=args.states, seconds=args.seconds)
        print(f"{faults} faults of {'+'.join(sorted(BOUNDS.menu))}: {result}", flush=True)
        if isinstance(result, Violation):
            return 1
    BOUNDS.faults = args.walk_faults
    rng, began, count = random.Random(args.seed), time.monotonic(), 0
    while count < args.walks or (not args.walks and time.monotonic() - began < args.seconds):
        count += 1
        if violation := walk(rng, args.steps):
            print(f"walk {count}: {violation}")
            return 1
    print(
        f"{count} random walks of {args.steps} steps, up to {args.walk_faults} faults, seed {args.seed}: no violation"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make model ARGS=…", description="Explore the model of the recovery.")
    parser.add_argument("--faults", type=int, default=2, help="search breadth-first with 1 to this many faults")
    parser.add_argument("--states", type=int, default=3_000_000, help="end a search after this many states")
    parser.add_argument("--seconds", type=float, default=30.0, help="end a search after this many seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the random walks")
    parser.add_argument("--steps", type=int, default=80, help="of each random walk")
    parser.add_argument("--walks", type=int, default=0, help="number of random walks; 0: as many as --seconds allow")
    parser.add_argument("--walk-faults", type=int, default=4, help="faults in a random walk, at most")
    parser.add_argument("--menu", default="", help=f"only these faults: {','.join(sorted(ALL_FAULTS))}")
    parser.add_argument("--without", default="", help=f"without these rules: {','.join(RULES)}")
    parser.add_argument("--each", action="store_true", help="take each rule away in turn")
    args = parser.parse_args()
    without = set(filter(None, args.without.split(",")))
    menu = frozenset(filter(None, args.menu.split(","))) or ALL_FAULTS
    if not without <= RULES.keys() or not menu <= ALL_FAULTS:
        parser.error("unknown rule or fault")
    BOUNDS.without, BOUNDS.menu = without, menu
    return each(args) if args.each else explore(args)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.recovery_model", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    sys.exit(main())

"""For each rule: where to look for the violation without it. The rest of the trace is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple


class Scene(NamedTuple):
    """`faults`: how many, `menu`: of which kinds, `prefix`: how the trace begins."""

    faults: int
    menu: frozenset[str]
    prefix: Sequence[str] = ()


REGISTER: Final = ["P0 registers", "P1 registers"]
ANSWER: Final = ["P0 calls for a1", "P0 journals", "P0 answers"]
FENCE: Final = "recovery: fences Postgres"
HEAR: Final = ["recovery: fences Redis", "recovery: has heard"]
BLESS: Final = ["recovery: decides", "recovery: rebuilds", "recovery: blesses Redis", "recovery: blesses epoch"]


def _scene(faults: int, menu: str, *prefix: str) -> Scene:
    return Scene(faults, frozenset(menu.split()), prefix)


SCENES: Final[Mapping[str, Scene]] = {
    "void": _scene(
        2, "redis", *REGISTER, "P0 calls for a1", "P1 calls for b1", "P1 journals", "a copy of the Redis",
        "Redis is flushed", FENCE, "P0 meets", "P1 meets", *HEAR, *BLESS,
    ),
    "lock": _scene(
        3, "redis api", "P0 registers", "P0 calls for a1", "Redis is flushed", FENCE, "another process on host 0",
        "P1 meets", "recovery: fences Redis", "recovery: stops waiting",
    ),
    "regtx": _scene(
        2, "redis api", "P0 learns", "an empty Redis", FENCE, "P1 meets", "recovery: fences Redis",
        "recovery: stops waiting",
    ),
    "carry": _scene(
        3, "redis host", "P0 registers", *ANSWER, "host 0 is lost", "Redis restarts with", FENCE, "P1 meets", *HEAR
    ),
    "promoted": _scene(
        2, "redis api", "P0 registers", "a replica with all", "P0 is cut off", FENCE, "P1 meets", *HEAR
    ),
    "lineage": _scene(
        2, "redis pg", *REGISTER, *ANSWER, "the worker reads", "a copy of Postgres", "the worker commits",
        "host 0 deletes", "Redis is flushed", "the worker cannot", "Postgres returns",
    ),
    "hearall": _scene(
        2, "redis pg", "a copy of Postgres", "P0 registers", *ANSWER, "Redis is flushed", "Postgres returns"
    ),
    "keep": _scene(
        2, "redis api", *REGISTER, *ANSWER, "P0 is cut off", "Redis is flushed", FENCE, "P1 meets", *HEAR, *BLESS
    ),
    "close": _scene(1, "redis"),
    "replay": _scene(1, "redis"),
    "beat": _scene(1, "redis"),
    "behind": _scene(1, "redis"),
    "disk": _scene(2, "redis host"),
    "boot": _scene(2, "redis host"),
    "append": _scene(2, "redis host"),
    "all": _scene(2, "redis host"),
}  # fmt: skip

"""What a mutation is: edits of the program, and what is expected to notice them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """The replacement of `old`, which occurs exactly once in the file, by `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """Edits and the scenarios that are run one after another, then, if none fails, the `tests` (for pytest)."""

    name: str
    edits: tuple[Edit, ...]
    scenarios: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

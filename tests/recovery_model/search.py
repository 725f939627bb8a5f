"""The search: breadth-first through all states, and random walks."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tests.recovery_model.promises import broken, broken_at_rest
from tests.recovery_model.rules import BOUNDS
from tests.recovery_model.state import State, start
from tests.recovery_model.stores import steps

FAULTS_STOP = "-- the faults stop --"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, and the steps that lead to it."""

    found: str
    trace: list[str]

    def __str__(self) -> str:
        return "\n".join([f"VIOLATION: {self.found}", *(f"  {n:2} {label}" for n, label in enumerate(self.trace, 1))])


@dataclass(frozen=True, slots=True)
class Explored:
    """No violation. `whole`: nothing was cut off."""

    states: int
    explored: int
    whole: bool
    seconds: float

    def __str__(self) -> str:
        reach = "all there are" if self.whole else "cut off"
        return f"{self.states} states seen, {self.explored} explored ({reach}), {self.seconds:.0f} s"


def follow(s: State, parts: Sequence[str]) -> tuple[State | None, list[str]]:
    """Return the state behind the steps whose labels begin with these words, one after another; and the labels."""
    labels: list[str] = []
    for part in parts:
        step = next((step for step in steps(s) if step.label.startswith(part)), None)
        if step is None:
            return None, [*labels, part]
        labels.append(step.label)
        s = step.state._replace(faults=s.faults + step.cost)
    return s, labels


def search(
    *, max_states: int = 3_000_000, seconds: float = 30.0, rest_every: int = 16, prefix: Sequence[str] = ()
) -> Violation | Explored:
    """Search breadth-first from the end of `prefix` within BOUNDS. A violation comes with its shortest trace.

    One state of `rest_every` is also brought to rest, and each behind a fault; the others lie on the way of one.
    """
    first, before = follow(start(), prefix)
    assert first is not None, f"the prefix cannot be followed: {before[-1]}"
    began, checked = time.monotonic(), 0
    parents: dict[int, tuple[int | None, str]] = {hash(first): (None, "")}
    queue: deque[tuple[State, int, bool]] = deque([(first, hash(first), True)])

    def trace(at: int) -> list[str]:
        labels = []
        while (parent := parents[at])[0] is not None:
            labels.append(parent[1])
            at = parent[0]
        return before + labels[::-1]

    while queue and (checked % 256 or time.monotonic() - began < seconds):
        s, at_s, behind_fault = queue.popleft()
        checked += 1
        if behind_fault or at_s % rest_every == 0:
            found, done = broken_at_rest(s)
            if found:
                return Violation(found, [*trace(at_s), FAULTS_STOP, *done])
        for label, cost, t in steps(s):
            t = t._replace(faults=s.faults + cost)
            if t.faults > BOUNDS.faults or (at := hash(t)) in parents:
                continue
            parents[at] = (at_s, label)
            if found := broken(t):
                return Violation(found, trace(at))
            if len(parents) < max_states:
                queue.append((t, at, bool(cost)))
    whole = not queue and len(parents) < max_states
    return Explored(len(parents), checked, whole, time.monotonic() - began)


def walk(rng: random.Random, length: int) -> Violation | None:
    """Walk at random. From the trace of a violation everything is taken out that can be."""
    s, labels, found = start(), list[str](), None
    while len(labels) < length and not found:
        options = [step for step in steps(s) if s.faults + step.cost <= BOUNDS.faults and step.state != s]
        if not options:
            break
        (step,) = rng.choices(options, [0.15 if option.cost else 1.0 for option in options])
        s, labels = step.state._replace(faults=s.faults + step.cost), [*labels, step.label]
        found = broken(s)
    at_rest = not found
    if at_rest and not broken_at_rest(s)[0]:
        return None
    labels = _shortened(labels, at_rest=at_rest)
    end, _ = follow(start(), labels)
    assert end is not None
    if not at_rest:
        return Violation(broken(end) or "", labels)
    found, done = broken_at_rest(end)
    return Violation(found or "", [*labels, FAULTS_STOP, *done])


def _shortened(labels: list[str], *, at_rest: bool) -> list[str]:
    n = 0
    while n < len(labels):
        for width in (4, 3, 2, 1):
            some = labels[:n] + labels[n + width :]
            end, _ = follow(start(), some)
            if end is not None and (broken_at_rest(end)[0] if at_rest else broken(end)):
                labels, n = some, -1
                break
        n += 1
    return labels

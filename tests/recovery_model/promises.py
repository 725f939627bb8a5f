"""What must hold in every state, and what must hold once the faults stop."""

from __future__ import annotations

from typing import Final

from tests.recovery_model.rules import AT_REST
from tests.recovery_model.script import Granted, script
from tests.recovery_model.state import State
from tests.recovery_model.stores import steps

MAX_STEPS_TO_REST: Final = 120
NEVER_RESTS: Final = "(never comes to rest)"

ORDER: Final = (
    "reaches Postgres", "starts again", "gives its word", "replays and settles", "finds", "journals", "reads K",
    "answers", "worker commits", "worker acks", "worker drops", "worker cannot", "recovery:", "registers", "learns",
    "connects", "windows and", "carried", "quarantine of", "loader", "worker reads",
)  # fmt: skip
"""What is done first, once the faults stop."""


def broken(s: State) -> str | None:
    """Return what is broken that must hold in every state."""
    owner: dict[str, str] = {}
    by_key: dict[str, str] = {}
    by_customer: dict[str, str] = {}
    for key, code in s.answers:
        if owner.setdefault(code, key[0]) != key[0]:
            return f"code {code} was answered to two customers"
        if by_key.setdefault(key, code) != code and not s.inexact:
            return f"key {key} got two codes"
        if by_customer.setdefault(key[0], code) != code and not s.inexact:
            return f"customer {key[0]} exceeded the limit of 1"
    rows = s.pg.ledger
    columns: tuple[tuple[str, list[object]], ...] = (
        ("serial", [row.serial for row in rows]),
        ("seq", [row.seq for row in rows]),
        ("code", [row.code for row in rows]),
    )
    for what, values in columns:
        if len(set(values)) != len(values):
            return f"a {what} is twice in the ledger"
    return None


def heal(s: State) -> tuple[State, list[str]]:
    """No more faults: every process does what is to be done. Return the quiet state and what was done."""
    done: list[str] = []
    s = s._replace(faults=AT_REST)
    for _ in range(MAX_STEPS_TO_REST):
        options = [
            (label, t)
            for label, cost, t in steps(s)
            if not cost and "calls" not in label and "old primary" not in label
        ]
        best = next(((label, t) for part in ORDER for label, t in options if part in label and t != s), None)
        if best is None:
            return s, done
        done.append(best[0])
        s = best[1]
    return s, [*done, NEVER_RESTS]


def broken_at_rest(s: State) -> tuple[str | None, list[str]]:
    """Return what is broken once the faults stop and everything has settled, and the steps until then."""
    s, done = heal(s)
    if done and done[-1] == NEVER_RESTS:
        return "it never comes to rest", done
    found = broken(s)
    if found is None and s.pg.incident:
        found = None if s.rolled else "an incident without a Postgres that went back"
    elif found is None:
        found = _lost(s) or _misplaced(s) or _stuck(s)
    return found, done


def _lost(s: State) -> str | None:
    """Return what was answered and is not where it must be."""
    pg, data = s.pg, s.main
    if (data.run, data.epoch) != (pg.run, pg.epoch):
        return "deadlock: nothing is blessed"
    rows = {(row.key, row.code) for row in pg.ledger}
    quarantined = {pg.codes[q.seq - 1] for q in pg.quarantined}
    for key, code in s.answers:
        if (key, code) not in rows and not (s.lossy and code in quarantined):
            return f"{code} answered to {key} is not in the ledger"
    if pg.quarantined and not s.lossy:
        return f"codes are quarantined though every journal lives: {sorted(pg.quarantined)}"
    if missing := {row.key for row in pg.ledger} - {event.key for event in data.kept}:
        return f"Redis does not know the redemptions of {sorted(missing)}, which are in the ledger"
    return None


def _misplaced(s: State) -> str | None:
    pg, data = s.pg, s.main
    places = [row.seq for row in pg.ledger] + [q.seq for q in pg.quarantined] + list(pg.void)
    places += range(data.issued + 1, data.issued + 1 + len(data.pool))
    if sorted(places) != list(range(1, len(pg.codes) + 1)):
        return f"seqs are not in exactly one place each: {sorted(places)} of {len(pg.codes)}"
    return None


def _stuck(s: State) -> str | None:
    for i, p in enumerate(s.procs):
        if not p.up:
            continue
        reply = script(s.main, p.reg, p.seen, p.beat, "z1")[1] if p.link == s.main.run else "NOT CONNECTED"
        if not (isinstance(reply, Granted) or (reply == "EMPTY" and not s.main.pool)):
            return f"deadlock: P{i} can never be granted anything again ({reply})"
    return None

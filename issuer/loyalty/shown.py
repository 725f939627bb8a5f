"""Accounts and entries as the API and the command line show them.

Figures of a program whose unit is a currency are decimal strings.
"""

from __future__ import annotations

from typing import Any

from issuer.instants import show_instant
from issuer.loyalty.account import AccountState, Hold, PointsEntry
from issuer.loyalty.amounts import show_points
from issuer.loyalty.bounds import NEVER
from issuer.loyalty.effects import EFFECTS
from issuer.loyalty.program import Program


def show_balance(state: AccountState, program: Program) -> dict[str, Any]:
    """Return the figures of an account. `expiring`: its available points, the soonest first; null: they never do."""
    unit = program.unit
    return {
        "available": show_points(state.available, unit),
        "held": show_points(state.held, unit),
        "pending": show_points(state.pending, unit),
        "debt": show_points(state.debt, unit),
        "lifetime": show_points(state.lifetime, unit),
        "tier": program.terms.tier(state.lifetime),
        "expiring": [
            {"at": None if at >= NEVER else show_instant(at), "points": show_points(points, unit)}
            for at, points in state.buckets
        ],
    }


def show_entry(entry: PointsEntry, account_id: int, unit: str) -> dict[str, Any]:
    """Return an entry with the figures after it. `change`: of available + held − debt."""
    return {
        "id": entry_text(account_id, entry.seq),
        "seq": entry.seq,
        "op": str(entry.op),
        "points": show_points(entry.points, unit),
        "change": show_points(EFFECTS[entry.op].balance * entry.points, unit),
        "available": show_points(entry.available, unit),
        "held": show_points(entry.held, unit),
        "pending": show_points(entry.pending, unit),
        "debt": show_points(entry.debt, unit),
        "lifetime": show_points(entry.lifetime, unit),
        "order": None if entry.order is None else {"source": entry.order[0], "order_id": entry.order[1]},
        "reason": entry.reason,
        "reverses": None if entry.reverses_seq is None else entry_text(account_id, entry.reverses_seq),
        "hold_id": None if entry.hold_id is None else str(entry.hold_id),
        "move_id": None if entry.move_id is None else str(entry.move_id),
        "terms_number": entry.terms_number,
        "occurred_at": show_instant(entry.occurred_at),
    }


def show_hold(hold: Hold, unit: str) -> dict[str, Any]:
    """Return a hold. `captured`: the points that its capture took."""
    return {
        "id": str(hold.id),
        "points": show_points(hold.points, unit),
        "captured": show_points(hold.captured, unit),
        "expires_at": show_instant(hold.expires_at),
        "state": str(hold.state),
    }


def entry_text(account_id: int, seq: int) -> str:
    """Return the id of an entry, for paths."""
    return f"{account_id}-{seq}"

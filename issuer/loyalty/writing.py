"""Writes of a gathered transaction: one statement, which takes all rows of a table as one set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final

from issuer.loyalty.account import AccountState, Hold, MoveState, Order, OrderKey, PointsEntry
from issuer.loyalty.operations import MoveKind, Spend, TransferOut
from issuer.loyalty.program import Program
from issuer.loyalty.reading import buckets_text
from issuer.loyalty.work import Actor, Work
from issuer.storage.postgres import AnyConnection


class WriteConflictError(Exception):
    """Another transaction has committed what this one decided about: roll back, read again and repeat."""


# Each part: its name, the types of its columns, and a statement in which {rows} is the set of them. What each operation
# writes is passed as whole rows, of a type of their own: the driver examines each element of an array.
_PARTS: Final = {
    "new_entries": (
        "new_entry[]",
        """INSERT INTO entries (account_id, seq, op, points, available, held, pending, debt, lifetime, order_source,
  order_id, reason, reverses_seq, hold_id, move_id, terms_number, occurred_at, buckets, key_hash, api_key_id, staff_id)
SELECT given.* FROM {rows}""",
    ),
    "changed_accounts": (
        "changed_account[]",
        """UPDATE accounts a SET seq = given.seq, available = given.available, held = given.held,
  pending = given.pending, debt = given.debt, lifetime = given.lifetime, day = given.day,
  day_earned = given.day_earned, day_spent = given.day_spent, buckets = given.buckets, due_at = given.due_at,
  touched_at = given.touched_at, merged_seq = given.merged_seq
FROM {rows} WHERE a.id = given.id""",
    ),
    "put_pending": (
        "bigint bigint bigint bigint timestamptz timestamptz",
        """INSERT INTO pending_points (earned_by, earned_seq, account_id, points, available_at, expires_at)
SELECT c1, c2, c3, c4, c5, c6 FROM {rows}
ON CONFLICT (earned_by, earned_seq) DO UPDATE SET account_id = excluded.account_id, points = excluded.points""",
    ),
    "removed_pending": (
        "bigint bigint",
        "DELETE FROM pending_points p USING {rows} WHERE (p.earned_by, p.earned_seq) = (c1, c2)",
    ),
    "put_holds": (
        "uuid bigint bigint bigint timestamptz text text bigint",
        """INSERT INTO points_holds (id, account_id, points, captured, expires_at, state, buckets, seq)
SELECT c1, c2, c3, c4, c5, c6, c7::jsonb, c8 FROM {rows}
ON CONFLICT (id) DO UPDATE SET captured = excluded.captured, state = excluded.state
WHERE points_holds.account_id = excluded.account_id""",
    ),
    "new_orders": (
        "uuid text text bigint bigint bigint bigint bigint text",
        """INSERT INTO orders (program_id, source, order_id, amount_minor, points, account_id, earned_by, earned_seq,
  on_refund)
SELECT c1, c2, c3, c4, c5, c6, c7, c8, c9 FROM {rows} ON CONFLICT DO NOTHING""",
    ),
    "changed_orders": (
        "uuid text text bigint bigint",
        """UPDATE orders o SET refunded_minor = c4, reversed = c5
FROM {rows} WHERE (o.program_id, o.source, o.order_id) = (c1, c2, c3)""",
    ),
    "new_moves": (
        "uuid text uuid bigint bigint bigint uuid uuid text bigint timestamptz timestamptz",
        """INSERT INTO moves (id, kind, program_id, from_account, to_account, points, reward_id, batch_id, state, seq,
  created_at, settled_at)
SELECT c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12 FROM {rows}""",
    ),
    "undone_moves": (
        "uuid timestamptz",
        """UPDATE moves m SET state = 'undone', settled_at = c2 FROM {rows} WHERE m.id = c1 AND m.state = 'debited'""",
    ),
}

# Orders that follow their account in a merge are counted by nothing.
_MERGE_ORDERS: Final = """
UPDATE orders o SET account_id = merged.target FROM unnest($1::bigint[], $2::bigint[]) AS merged (source, target)
WHERE o.account_id = merged.source"""


@dataclass(slots=True)
class Writes:
    """The rows that a transaction writes, by the part of the statement."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    merges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, part: str, *values: Any) -> None:
        self.rows.setdefault(part, []).append(values)

    def add_entry(self, account_id: int, entry: PointsEntry, actor: Actor) -> None:
        source, order_id = entry.order or (None, None)
        self.add(
            "new_entries", account_id, entry.seq, entry.op, entry.points, entry.available, entry.held, entry.pending,
            entry.debt, entry.lifetime, source, order_id, entry.reason, entry.reverses_seq, entry.hold_id,
            entry.move_id, entry.terms_number, entry.occurred_at,
            buckets_text(entry.buckets) if entry.buckets else None, actor.key_hash, actor.api_key_id, actor.staff_id,
        )  # fmt: skip

    def add_move(self, work: Work, program: Program, after: AccountState) -> None:
        """Add the move that an operation begins, if it does."""
        operation = work.operation
        if not isinstance(operation, Spend | TransferOut) or operation.move is None:
            return
        move = operation.move
        is_open = move.kind is MoveKind.PURCHASE
        self.add(
            "new_moves", move.id, move.kind, program.id, work.account_id, work.target_id, operation.points,
            move.reward_id, move.batch_id, MoveState.DEBITED if is_open else MoveState.DONE, after.seq,
            after.touched_at, None if is_open else after.touched_at,
        )  # fmt: skip
        if move.kind is MoveKind.MERGE and work.target_id is not None:
            self.merges.append((work.account_id, work.target_id))

    def add_changes(self, before: AccountState, after: AccountState, program: Program) -> None:
        """Add what the operations of a transaction have changed in one account."""
        self.add(
            "changed_accounts", after.id, after.seq, after.available, after.held, after.pending, after.debt,
            after.lifetime, after.day, after.day_earned, after.day_spent, buckets_text(after.buckets), after.due_at,
            after.touched_at, after.merged_seq,
        )  # fmt: skip
        pendings = {pending.earned: pending for pending in before.pendings}
        for pending in after.pendings:
            if pendings.pop(pending.earned, None) != pending:
                dates = (pending.available_at, pending.expires_at)
                self.add("put_pending", *pending.earned, after.id, pending.points, *dates)
        for earned in pendings:
            self.add("removed_pending", *earned)
        holds = {hold.id: hold for hold in before.holds}
        for hold in after.holds:
            if holds.get(hold.id) != hold:
                self._add_hold(after.id, hold)
        for key, order in after.orders.items():
            self._add_order(program, key, before.orders.get(key), order)
        for move_id, state in after.moves.items():
            if state is MoveState.UNDONE and before.moves.get(move_id) is MoveState.DEBITED:
                self.add("undone_moves", move_id, after.touched_at)

    def _add_hold(self, account_id: int, hold: Hold) -> None:
        self.add(
            "put_holds", hold.id, account_id, hold.points, hold.captured, hold.expires_at, hold.state,
            buckets_text(hold.buckets), hold.seq,
        )  # fmt: skip

    def _add_order(self, program: Program, key: OrderKey, before: Order | None, after: Order) -> None:
        if before is None:
            self.add(
                "new_orders", program.id, *key, after.amount_minor, after.points, after.account_id, *after.earned,
                after.on_refund,
            )  # fmt: skip
        elif before != after:
            self.add("changed_orders", program.id, *key, after.refunded_minor, after.reversed)

    async def write(self, connection: AnyConnection) -> None:
        """Write everything. Raises WriteConflictError if another transaction was faster: then roll back."""
        # In a merge pending points leave one account and reach another: that is one change of their row.
        put = {row[:2] for row in self.rows.get("put_pending", ())}
        self.rows["removed_pending"] = [row for row in self.rows.get("removed_pending", ()) if row not in put]
        names = tuple(sorted(name for name, rows in self.rows.items() if rows))
        if not names:
            return
        # In one order in every transaction: the second of two that insert the same key waits for the first.
        columns = chain.from_iterable(_values(name, self.rows[name]) for name in names)
        written = await connection.fetchrow(_statement(names), *columns)
        assert written is not None
        for name, count in zip(names, written, strict=True):
            if count != len(self.rows[name]):
                raise WriteConflictError(name)
        if self.merges:
            await connection.execute(_MERGE_ORDERS, *zip(*self.merges, strict=True))


def _values(name: str, rows: list[tuple[Any, ...]]) -> Iterable[Sequence[Any]]:
    """Return the parameters of a part: its columns, or its rows."""
    rows.sort()
    return (rows,) if _is_rows(name) else zip(*rows, strict=True)


def _is_rows(name: str) -> bool:
    return _PARTS[name][0].endswith("[]")


@cache
def _statement(names: tuple[str, ...]) -> str:
    """Return the statement that writes these parts and counts the rows of each."""
    texts, number = [], 0
    for name in names:
        types, text = _PARTS[name]
        arrays = types.split() if _is_rows(name) else [f"{type_}[]" for type_ in types.split()]
        values = ", ".join(f"${number + place}::{array}" for place, array in enumerate(arrays, 1))
        number += len(arrays)
        columns = "" if _is_rows(name) else f" ({', '.join(f'c{place}' for place in range(1, len(arrays) + 1))})"
        rows = f"unnest({values}) AS given{columns}"
        texts.append(f"{name} AS ({text.format(rows=rows)} RETURNING 1)")
    counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in names)
    return f"WITH {', '.join(texts)} SELECT {counts}"

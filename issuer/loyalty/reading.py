"""Reads for a gathered transaction: the accounts are locked in the order of their ids, then all of them are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from issuer.instants import EPOCH, from_ms, to_ms
from issuer.loyalty.account import (
    AccountState,
    EntryId,
    EntryOp,
    Hold,
    HoldState,
    MoveState,
    Order,
    OrderKey,
    Pending,
    PointsBucket,
    PointsEntry,
)
from issuer.loyalty.program import Program, ProgramState
from issuer.loyalty.terms import OnRefund, Terms, parse_terms
from issuer.loyalty.work import Work
from issuer.storage.postgres import AnyConnection

MAX_TERMS: Final = 10_000
"""Versions of terms that a process keeps in memory; beyond, it forgets all of them."""

# The rows are locked as they leave the sort, so two transactions never wait for each other. An account that was merged
# while this waited for its lock is left out, too. The clock of the last row is read when all locks are held.
_LOCK: Final = """
SELECT *, clock_timestamp() AS now FROM (
  SELECT a.id, a.program_id, a.seq, a.available, a.held, a.pending, a.debt, a.lifetime, a.buckets::text, a.day,
    a.day_earned, a.day_spent, a.touched_at, a.merged_seq, p.client_id, p.name, p.unit, p.timezone, p.state,
    p.terms_number, p.created_at
  FROM accounts a JOIN loyalty_programs p ON p.id = a.program_id
  WHERE a.id = ANY($1::bigint[]) AND a.merged_into IS NULL ORDER BY a.id FOR NO KEY UPDATE OF a) AS locked"""

# Statements of their own: their snapshots are taken when the locks are held.
_PENDING: Final = """
SELECT account_id, points, expires_at, available_at, earned_by, earned_seq
FROM pending_points WHERE account_id = ANY($1::bigint[])"""
_HOLDS: Final = """
SELECT id, account_id, points, expires_at, buckets::text, seq
FROM points_holds WHERE account_id = ANY($1::bigint[]) AND state = 'open'"""

_ORDERS: Final = """
SELECT a.id AS asking, o.* FROM unnest($1::bigint[], $2::text[], $3::text[]) AS named (account_id, source, order_id)
JOIN accounts a ON a.id = named.account_id
JOIN orders o ON (o.program_id, o.source, o.order_id) = (a.program_id, named.source, named.order_id)"""

_ENTRIES: Final = """
SELECT named.asking, e.*, e.buckets::text AS taken, coalesce((
    SELECT sum(r.points) FROM entries r WHERE r.account_id = e.account_id AND r.reverses_seq = e.seq
      AND r.op IN ('undo', 'take_back', 'take_back_pending')), 0)::bigint AS reversed
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS named (asking, account_id, seq)
JOIN entries e ON (e.account_id, e.seq) = (named.account_id, named.seq)"""

_SETTLED_HOLDS: Final = """
SELECT id, account_id, points, captured, expires_at, state, seq FROM points_holds
WHERE id = ANY($1::uuid[]) AND state <> 'open'"""

_MOVES: Final = "SELECT id, from_account, state FROM moves WHERE id = ANY($1::uuid[])"

_TERMS: Final = "SELECT terms::text FROM program_terms WHERE program_id = $1 AND number = $2"


def buckets_text(buckets: Iterable[PointsBucket]) -> str:
    """Return the JSON of buckets as the tables keep it."""
    return orjson.dumps([(to_ms(bucket.expires_at), bucket.points) for bucket in buckets]).decode()


def buckets_of(text: str | None) -> tuple[PointsBucket, ...]:
    """Return the buckets of `buckets_text`."""
    return () if text is None else tuple(PointsBucket(from_ms(ms), points) for ms, points in orjson.loads(text))


def entry_of(row: asyncpg.Record, buckets: str | None) -> PointsEntry:
    """Return the entry of a row of `entries`. `buckets`: its column as text."""
    return PointsEntry(
        row["seq"], EntryOp(row["op"]), row["points"], row["available"], row["held"], row["pending"], row["debt"],
        row["lifetime"], row["terms_number"], row["occurred_at"],
        order=None if row["order_id"] is None else (row["order_source"], row["order_id"]),
        reason=row["reason"], reverses_seq=row["reverses_seq"], hold_id=row["hold_id"], move_id=row["move_id"],
        buckets=buckets_of(buckets),
    )  # fmt: skip


@dataclass(slots=True)
class _Parts:
    """What belongs to one account beside its row, or is named by an operation on it. Most accounts have none."""

    pendings: list[Pending] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    orders: dict[OrderKey, Order] = field(default_factory=dict)
    entries: dict[EntryId, PointsEntry] = field(default_factory=dict)
    reversed: dict[EntryId, int] = field(default_factory=dict)
    moves: dict[UUID, MoveState] = field(default_factory=dict)

    def state(self, row: asyncpg.Record) -> AccountState:
        return AccountState(
            row["id"], row["seq"], row["available"], row["held"], row["pending"], row["debt"], row["lifetime"],
            buckets_of(row["buckets"]), tuple(self.pendings), tuple(self.holds),
            row["day"], row["day_earned"], row["day_spent"], row["touched_at"],
            row["merged_seq"], self.orders, self.entries, self.reversed, self.moves,
        )  # fmt: skip


class ReadAccounts(NamedTuple):
    """The accounts of a transaction, by id, and its clock."""

    states: dict[int, AccountState]
    programs: dict[int, Program]
    now: datetime


class Reader:
    """Reads the accounts of works. Terms never change, so a process reads each version once."""

    def __init__(self) -> None:
        self._terms: dict[tuple[UUID, int], Terms] = {}

    async def read(self, connection: AnyConnection, works: Sequence[Work]) -> ReadAccounts:
        """Lock the accounts of the works, then read them. An account that does not exist is left out."""
        ids = sorted({account_id for work in works for account_id in work.account_ids})
        rows = await connection.fetch(_LOCK, ids)
        by_id: dict[UUID, Program] = {}
        for row in rows:
            if row["program_id"] not in by_id:
                by_id[row["program_id"]] = await self._program(connection, row)
        programs = {row["id"]: by_id[row["program_id"]] for row in rows}
        parts: defaultdict[int, _Parts] = defaultdict(_Parts)
        await _read_parts(connection, rows, parts)
        await _read_named(connection, [work for work in works if work.account_id in programs], parts)
        nothing = _Parts()
        states = {row["id"]: parts.get(row["id"], nothing).state(row) for row in rows}
        return ReadAccounts(states, programs, rows[-1]["now"] if rows else EPOCH)

    async def _program(self, connection: AnyConnection, row: asyncpg.Record) -> Program:
        key = (row["program_id"], row["terms_number"])
        terms = self._terms.get(key)
        if terms is None:
            if len(self._terms) >= MAX_TERMS:
                self._terms.clear()
            terms = parse_terms(orjson.loads(await connection.fetchval(_TERMS, *key)), row["unit"])
            self._terms[key] = terms
        return Program(
            row["program_id"], row["client_id"], row["name"], row["unit"], row["timezone"], ProgramState(row["state"]),
            row["terms_number"], terms, row["created_at"],
        )  # fmt: skip


async def _read_parts(
    connection: AnyConnection, accounts: Sequence[asyncpg.Record], parts: defaultdict[int, _Parts]
) -> None:
    """Read the pending points and open holds of the accounts that have any."""
    if waiting := [row["id"] for row in accounts if row["pending"]]:
        for row in await connection.fetch(_PENDING, waiting):
            earned = EntryId(row["earned_by"], row["earned_seq"])
            pending = Pending(earned, row["points"], row["available_at"], row["expires_at"])
            parts[row["account_id"]].pendings.append(pending)
    if holding := [row["id"] for row in accounts if row["held"]]:
        for row in await connection.fetch(_HOLDS, holding):
            hold = Hold(row["id"], row["points"], row["expires_at"], buckets_of(row["buckets"]), row["seq"])
            parts[row["account_id"]].holds.append(hold)


async def _read_named(connection: AnyConnection, works: Sequence[Work], parts: defaultdict[int, _Parts]) -> None:
    """Read what operations name: entries with their orders, orders with their first entries, settled holds, moves."""
    orders = {(work.account_id, *work.order_key) for work in works if work.order_key is not None}
    entries = {(work.account_id, work.account_id, work.entry_seq) for work in works if work.entry_seq is not None}
    if entries:
        await _read_entries(connection, entries, parts)
        orders |= {
            (account_id, *entry.order)
            for account_id, _, seq in entries
            if (entry := parts[account_id].entries.get(EntryId(account_id, seq))) is not None
            and entry.order is not None
        }
    if orders:
        rows = await connection.fetch(_ORDERS, *zip(*orders, strict=True))
        for row in rows:
            parts[row["asking"]].orders[row["source"], row["order_id"]] = Order(
                row["amount_minor"], row["points"], row["account_id"], EntryId(row["earned_by"], row["earned_seq"]),
                row["refunded_minor"], row["reversed"], OnRefund(row["on_refund"]),
            )  # fmt: skip
        await _read_entries(connection, {(row["asking"], row["earned_by"], row["earned_seq"]) for row in rows}, parts)
    if holds := [work.hold_id for work in works if work.hold_id is not None]:
        for row in await connection.fetch(_SETTLED_HOLDS, holds):
            state, captured = HoldState(row["state"]), row["captured"]
            hold = Hold(row["id"], row["points"], row["expires_at"], (), row["seq"], state, captured)
            parts[row["account_id"]].holds.append(hold)
    if moves := [work.move_id for work in works if work.move_id is not None]:
        for row in await connection.fetch(_MOVES, moves):
            parts[row["from_account"]].moves[row["id"]] = MoveState(row["state"])


async def _read_entries(
    connection: AnyConnection, named: Collection[tuple[int, int, int]], parts: defaultdict[int, _Parts]
) -> None:
    """Read entries, each named by the account that asks for it, and its own account and seq."""
    if not named:
        return
    for row in await connection.fetch(_ENTRIES, *zip(*named, strict=True)):
        part, entry_id = parts[row["asking"]], EntryId(row["account_id"], row["seq"])
        part.entries[entry_id] = entry_of(row, row["taken"])
        part.reversed[entry_id] = row["reversed"]

"""Read balances as they are now, without a lock: what is due since the last operation counts as done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.loyalty.account import AccountState, EntryId, Hold, Pending
from issuer.loyalty.apply import apply
from issuer.loyalty.operations import Sweep
from issuer.loyalty.outcome import Refusal
from issuer.loyalty.program import Program
from issuer.loyalty.reading import buckets_of
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

# One statement, so that all of an account is of one instant; each kind of row as arrays of its columns.
_READ: Final = """
SELECT now() AS read_at, a.id, a.seq, a.available, a.held, a.pending, a.debt, a.lifetime, a.day, a.day_earned,
  a.day_spent, a.touched_at, a.buckets::text, p.*, h.*
FROM accounts a
CROSS JOIN LATERAL (
  SELECT array_agg(earned_by ORDER BY earned_by, earned_seq) AS earned_by,
    array_agg(earned_seq ORDER BY earned_by, earned_seq) AS earned_seq,
    array_agg(points::bigint ORDER BY earned_by, earned_seq) AS pending_points,
    array_agg(available_at::timestamptz ORDER BY earned_by, earned_seq) AS pending_until,
    array_agg(expires_at::timestamptz ORDER BY earned_by, earned_seq) AS pending_ends
  FROM pending_points WHERE account_id = a.id) p
CROSS JOIN LATERAL (
  SELECT array_agg(id ORDER BY seq) AS hold_ids, array_agg(points::bigint ORDER BY seq) AS hold_points,
    array_agg(expires_at::timestamptz ORDER BY seq) AS hold_ends, array_agg(buckets::text ORDER BY seq) AS hold_buckets,
    array_agg(seq ORDER BY seq) AS hold_seqs
  FROM points_holds WHERE account_id = a.id AND state = 'open') h
WHERE a.id = ANY ($1::bigint[])"""


_PENDING: Final = ("earned_by", "earned_seq", "pending_points", "pending_until", "pending_ends")
_HOLD: Final = ("hold_ids", "hold_points", "hold_ends", "hold_buckets", "hold_seqs")


async def read_balances(
    postgres: Pool | AnyConnection, program: Program, account_ids: Sequence[int]
) -> Mapping[int, AccountState]:
    """Return accounts of one program by their ids. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        rows = await postgres.fetch(_READ, account_ids)
    return {row["id"]: _now(row, program) for row in rows}


async def read_balance(postgres: Pool | AnyConnection, program: Program, account_id: int) -> AccountState:
    """Return an account that exists. Raises PostgresUnavailableError."""
    return (await read_balances(postgres, program, [account_id]))[account_id]


def _now(row: asyncpg.Record, program: Program) -> AccountState:
    state = AccountState(
        row["id"], row["seq"], row["available"], row["held"], row["pending"], row["debt"], row["lifetime"],
        buckets_of(row["buckets"]),
        tuple(map(_pending, *_columns(row, *_PENDING))),
        tuple(map(_hold, *_columns(row, *_HOLD))),
        row["day"], row["day_earned"], row["day_spent"], row["touched_at"],
    )  # fmt: skip
    if state.due_at > row["read_at"]:
        return state
    swept = apply(state, Sweep(), row["read_at"], program)
    assert not isinstance(swept, Refusal)
    return swept.state


def _columns(row: asyncpg.Record, *names: str) -> list[list[Any]]:
    # An aggregate of no rows is null.
    return [row[name] or [] for name in names]


def _pending(earned_by: int, seq: int, points: int, available_at: datetime, expires_at: datetime) -> Pending:
    return Pending(EntryId(earned_by, seq), points, available_at, expires_at)


def _hold(hold_id: UUID, points: int, expires_at: datetime, buckets: str, seq: int) -> Hold:
    return Hold(UUID(bytes=hold_id.bytes), points, expires_at, buckets_of(buckets), seq)

"""Merges: a member becomes another one of the same client, with all its accounts, in one transaction.

The members are locked in the order of their ids, then the accounts. So of two merges in opposite directions the second
finds that its target was merged, and is refused: there is no cycle and no deadlock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.loyalty.member import Member, MemberNotFoundError
from issuer.loyalty.member_store import point_to_target
from issuer.loyalty.operations import MoveKind, NewMove, TransferOut
from issuer.loyalty.outcome import Refusal, Transferred
from issuer.loyalty.reading import Reader
from issuer.loyalty.transaction import run_transaction
from issuer.loyalty.work import Actor, Work
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool

_LOCK_MEMBERS: Final = """
SELECT id, merged_into, erased_at FROM members WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE"""

_OPEN: Final = """
INSERT INTO accounts (program_id, member_id) SELECT program_id, $2 FROM accounts WHERE member_id = $1
ON CONFLICT (member_id, program_id) WHERE member_id IS NOT NULL DO NOTHING"""

_PAIRS: Final = """
SELECT s.id AS source_id, t.id AS target_id, s.program_id FROM accounts s
JOIN accounts t ON t.program_id = s.program_id AND t.member_id = $2
WHERE s.member_id = $1 AND s.merged_into IS NULL ORDER BY s.id"""

# Behind the locks of the accounts, so no purchase begins meanwhile.
_IN_PROGRESS: Final = "SELECT EXISTS (SELECT FROM moves WHERE from_account = ANY($1) AND state = 'debited')"

_CLOSE: Final = "UPDATE accounts SET merged_into = $2 WHERE id = $1"
_CARDS: Final = "UPDATE cards SET account_id = $2 WHERE account_id = $1"
_POINTS: Final = "UPDATE moves SET points = $2 WHERE id = $1"


class MergeRefusedError(Exception):
    """An account cannot be merged; `refusal` says why. Nothing was changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal.code))
        self.refusal = refusal


class MembersMergedError(Exception):
    """The two are one member, or one of them was merged into a third one. Nothing was changed."""


class PurchaseInProgressError(Exception):
    """A purchase of the member is not settled yet. Nothing was changed; a repeat succeeds soon."""


@dataclass(frozen=True, slots=True)
class MergedAccount:
    """What was moved from one account to another one of the same program, under a key of its own."""

    move_id: UUID
    program_id: UUID
    source_id: int
    target_id: int
    done: Transferred


async def merge_member(
    postgres: Pool,
    source: Member,
    target: Member,
    *,
    who: Actor,
    actor: str,
    reason: str | None = None,
    act: Act[Sequence[MergedAccount]] = UNKEPT,
) -> Sequence[MergedAccount]:
    """Merge `source` into `target` of the same client: points, pending points, debts, lifetime, orders and cards.

    Both histories stay. Raises MembersMergedError, MemberNotFoundError (erased), MergeRefusedError (open holds),
    PurchaseInProgressError and PostgresUnavailableError; nothing is changed then.
    """
    async with act.transaction(postgres) as connection:
        await _lock_members(connection, source, target)
        await connection.execute(_OPEN, source.id, target.id)
        pairs = await connection.fetch(_PAIRS, source.id, target.id)
        merged = await _move(connection, pairs, who, reason)
        if await connection.fetchval(_IN_PROGRESS, [one.source_id for one in merged]):
            raise PurchaseInProgressError("a purchase of the member is not settled yet")
        for one in merged:
            assert one.done.source.moved is not None
            await connection.execute(_CLOSE, one.source_id, one.target_id)
            await connection.execute(_CARDS, one.source_id, one.target_id)
            points = sum(bucket.points for bucket in one.done.source.moved.buckets)
            await connection.execute(_POINTS, one.move_id, points)
        await point_to_target(connection, source.id, target.id)
        detail = {"into": str(target.id), "moves": [str(one.move_id) for one in merged]}
        await audit.record(connection, actor=actor, action="member.merge", subject=f"member:{source.id}", detail=detail)
        await act.keep(connection, merged)
    return merged


async def _lock_members(connection: AnyConnection, source: Member, target: Member) -> None:
    if source.id == target.id:
        raise MembersMergedError("they are one member")
    for row in await connection.fetch(_LOCK_MEMBERS, [source.id, target.id]):
        if row["merged_into"] is not None:
            raise MembersMergedError("one of the members was merged meanwhile")
        if row["erased_at"] is not None:
            raise MemberNotFoundError


async def _move(
    connection: AnyConnection, pairs: Sequence[asyncpg.Record], who: Actor, reason: str | None
) -> list[MergedAccount]:
    """Move everything from the source of each pair to its target."""
    moves = [NewMove(uuid4(), MoveKind.MERGE) for _ in pairs]
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    works = [
        Work(
            pair["source_id"],
            TransferOut(0, move, merge=True, reason=reason),
            pair["target_id"],
            None,
            who,
            UNKEPT,
            False,
            0.0,
            never,
        )
        for move, pair in zip(moves, pairs, strict=True)
    ]
    merged: list[MergedAccount] = []
    settled = await run_transaction(connection, Reader(), works) if works else []
    for move, pair, one in zip(moves, pairs, settled, strict=True):
        if isinstance(one, Exception):
            raise one
        if isinstance(one, Refusal):
            raise MergeRefusedError(one)
        assert isinstance(one, Transferred)
        merged.append(MergedAccount(move.id, pair["program_id"], pair["source_id"], pair["target_id"], one))
    return merged

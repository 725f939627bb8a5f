"""Accounts of gift cards: without a member, opened with the value that the cards are sold with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from issuer.loyalty.account import AccountState
from issuer.loyalty.apply import apply
from issuer.loyalty.operations import Earn
from issuer.loyalty.outcome import Refusal
from issuer.loyalty.program import Program
from issuer.loyalty.work import Actor
from issuer.loyalty.writing import Writes
from issuer.storage.postgres import AnyConnection

REASON: Final = "issued"
"""The reason of the first entry of a gift card."""

_OPEN: Final = "INSERT INTO accounts (program_id) SELECT $1 FROM generate_series(1, $2) RETURNING id"


@dataclass(frozen=True, slots=True)
class FirstValue:
    """What each account has at once, in minor units, and the actor of its entry."""

    points: int
    actor: Actor


class ValueRefusedError(Exception):
    """The terms of the program refuse the value; nothing is issued."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal.code))
        self.refusal = refusal


async def open_gift_accounts(
    connection: AnyConnection, program: Program, count: int, value: FirstValue | None
) -> Sequence[int]:
    """Open accounts in the caller's transaction, with an entry each if they have a value. Raises ValueRefusedError.

    They need no lock and no executor: until the commit nothing else knows of them.
    """
    accounts = [int(row["id"]) for row in await connection.fetch(_OPEN, program.id, count)]
    if value is None:
        return accounts
    now, writes = await connection.fetchval("SELECT clock_timestamp()"), Writes()
    for account_id in accounts:
        before = AccountState(account_id)
        applied = apply(before, Earn(value.points, reason=REASON), now, program)
        if isinstance(applied, Refusal):
            raise ValueRefusedError(applied)
        for entry in applied.entries:
            writes.add_entry(account_id, entry, value.actor)
        writes.add_changes(before, applied.state, program)
    await writes.write(connection)
    return accounts

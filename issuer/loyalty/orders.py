"""Find orders that have earned points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from issuer.loyalty.operations import OrderRef
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool, unavailable_translated

_FIND: Final = """
SELECT o.account_id, o.amount_minor, o.refunded_minor, t.terms->'earn'->>'currency' AS currency
FROM orders o JOIN entries e ON (e.account_id, e.seq) = (o.earned_by, o.earned_seq)
JOIN program_terms t ON (t.program_id, t.number) = (o.program_id, e.terms_number)
WHERE (o.program_id, o.source, o.order_id) = ($1, $2, $3)"""


class OrderNotFoundError(LookupError):
    """The program knows no such order."""

    def __init__(self) -> None:
        super().__init__("no order found")


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """An order that has earned points. `account_id`: whose they are now; `left_minor`: what can be refunded of it.

    `currency`: of the terms under which it earned, whatever the terms say today. Its amounts are in minor units of it.
    """

    account_id: int
    amount_minor: int
    left_minor: int
    currency: str


async def find_order(postgres: Pool, program: Program, order: OrderRef) -> KnownOrder:
    """Return an order of a program. Raises OrderNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, program.id, order.source, order.order_id)
    if row is None:
        raise OrderNotFoundError
    left_minor = row["amount_minor"] - row["refunded_minor"]
    return KnownOrder(row["account_id"], row["amount_minor"], left_minor, row["currency"])

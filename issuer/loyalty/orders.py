"""Find orders that have earned points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from issuer.loyalty.operations import OrderRef
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool, unavailable_translated

_FIND: Final = """
SELECT account_id, amount_minor, refunded_minor FROM orders WHERE (program_id, source, order_id) = ($1, $2, $3)"""


class OrderNotFoundError(LookupError):
    """The program knows no such order."""

    def __init__(self) -> None:
        super().__init__("no order found")


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """An order that has earned points. `account_id`: whose they are now; `left_minor`: what can be refunded of it."""

    account_id: int
    amount_minor: int
    left_minor: int


async def find_order(postgres: Pool, program: Program, order: OrderRef) -> KnownOrder:
    """Return an order of a program. Raises OrderNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, program.id, order.source, order.order_id)
    if row is None:
        raise OrderNotFoundError
    return KnownOrder(row["account_id"], row["amount_minor"], row["amount_minor"] - row["refunded_minor"])

"""What is remembered of orders beside the ledger: refunds that have counted, and whether prices include tax."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from issuer.loyalty.operations import OrderRef
from issuer.loyalty.outcome import Applied
from issuer.storage.acts import Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

_COUNT_REFUND: Final = """
INSERT INTO hook_refunds (program_id, source, order_id, refund_id) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING true"""

_HAS_COUNTED: Final = """
SELECT true FROM hook_refunds WHERE (program_id, source, order_id, refund_id) = ($1, $2, $3, $4)"""

_NOTE_TAX: Final = """
INSERT INTO hook_taxed_orders (program_id, source, order_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"""

_INCLUDES_TAX: Final = """
SELECT true FROM hook_taxed_orders WHERE (program_id, source, order_id) = ($1, $2, $3)"""


class RefundCountedError(Exception):
    """The refund has taken its points back already."""


class CountRefund(Act[Applied]):
    """Counts a refund in the transaction that takes its points back, so that it counts once.

    Raises RefundCountedError.
    """

    def __init__(self, program_id: UUID, order: OrderRef, refund_id: str) -> None:
        self._values = (program_id, order.source, order.order_id, refund_id)

    async def begin(self, connection: AnyConnection) -> None:
        if await connection.fetchval(_COUNT_REFUND, *self._values) is None:
            raise RefundCountedError


async def has_counted(postgres: Pool, program_id: UUID, order: OrderRef, refund_id: str) -> bool:
    async with unavailable_translated():
        return bool(await postgres.fetchval(_HAS_COUNTED, program_id, order.source, order.order_id, refund_id))


async def note_tax(postgres: Pool, program_id: UUID, order: OrderRef) -> None:
    """Remember that the prices of an order, and so those of its refunds, include tax."""
    async with unavailable_translated():
        await postgres.execute(_NOTE_TAX, program_id, order.source, order.order_id)


async def includes_tax(postgres: Pool, program_id: UUID, order: OrderRef) -> bool:
    async with unavailable_translated():
        return bool(await postgres.fetchval(_INCLUDES_TAX, program_id, order.source, order.order_id))

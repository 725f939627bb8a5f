"""Process a delivery of the inbox: points for a paid order, points taken back for a refund.

A delivery may be processed several times, by several processes, and be killed at any point: each step counts once by
its natural key. The order earns once (program, source, order); a refund counts once (and its refund id); the rest of a
cancelled order can be taken back once. The state in the inbox is written last, so what was interrupted is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from typing import Final, assert_never
from uuid import UUID

from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.hooks.customer_keys import keys_of_customer
from issuer.loyalty.hooks.customers import find_account, find_customer, find_present, forget
from issuer.loyalty.hooks.endpoint import HookEndpoint
from issuer.loyalty.hooks.endpoint_store import find_endpoint
from issuer.loyalty.hooks.event_json import dump_events, load_events
from issuer.loyalty.hooks.events import (
    CustomerErased,
    DataRequested,
    OrderCancelled,
    OrderPaid,
    OrderRefunded,
    ShopCustomer,
    ShopEvent,
)
from issuer.loyalty.hooks.inbox import InboxState, release_for_member
from issuer.loyalty.hooks.order_notes import CountRefund, RefundCountedError, has_counted, includes_tax, note_tax
from issuer.loyalty.operations import Earn, OrderRef, TakeBack
from issuer.loyalty.orders import KnownOrder, OrderNotFoundError, find_order
from issuer.loyalty.outcome import Applied, Refusal, RefusalCode
from issuer.loyalty.program import Program, ProgramState
from issuer.loyalty.program_store import find_program
from issuer.money import CURRENCIES
from issuer.storage.acts import Act
from issuer.storage.postgres import Pool, unavailable_translated


class NotYetError(Exception):
    """The delivery cannot be processed now, such as while the program is paused. The worker tries it again."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What has become of a delivery, or of one event of it. `member_id`: whom it is about.

    `ends`: whether the events after it have no effect either. `is_final`: it stays refused, so nothing of it is kept.
    """

    state: InboxState
    note: str = ""
    member_id: UUID | None = None
    ends: bool = False
    is_final: bool = False


_NO_ORDER: Final = DeliveryResult(InboxState.WAITS_FOR_ORDER, "the order has not arrived yet")

_FIND: Final = """
SELECT endpoint_id, state, member_id, body::text AS body FROM hook_inbox WHERE id = $1"""

_SETTLE: Final = """
UPDATE hook_inbox SET state = $2, note = $3, member_id = coalesce($4, member_id), settled_at = now(),
  body = $5::text::jsonb, customer_keys = CASE WHEN $5::text IS NULL THEN '{}' ELSE customer_keys END
WHERE id = $1 AND state = 'received'"""

_WAKE: Final = """
UPDATE hook_inbox SET state = 'received', settled_at = NULL, note = ''
WHERE endpoint_id = $1 AND order_id = $2 AND state = 'waits_for_order' RETURNING id"""

_WAKE_ALL: Final = """
UPDATE hook_inbox i SET state = 'received', settled_at = NULL, note = ''
FROM hook_endpoints e, orders o
WHERE i.state = 'waits_for_order' AND e.id = i.endpoint_id
  AND (o.program_id, o.source, o.order_id) = (e.program_id, e.source, i.order_id)"""

_KEPT_BODY: Final = frozenset({InboxState.WAITS_FOR_ORDER, InboxState.WAITS_FOR_MEMBER, InboxState.REFUSED})


class HookProcessor:
    """Processes deliveries with the executor of its process."""

    def __init__(self, postgres: Pool, executor: LoyaltyExecutor) -> None:
        self._postgres = postgres
        self._executor = executor

    async def process(self, id_: int) -> DeliveryResult | None:
        """Process one delivery and what waited for its order. None: there was nothing to do.

        Raises NotYetError, PostgresUnavailableError.
        """
        async with unavailable_translated():
            row = await self._postgres.fetchrow(_FIND, id_)
        if row is None or row["state"] != InboxState.RECEIVED:
            return None
        endpoint = await find_endpoint(self._postgres, UUID(bytes=row["endpoint_id"].bytes))
        program = await find_program(self._postgres, endpoint.program_id)
        member_id = None if row["member_id"] is None else UUID(bytes=row["member_id"].bytes)
        work = _Work(self._postgres, self._executor, endpoint, program, member_id)
        events, settled = load_events(row["body"]), DeliveryResult(InboxState.DONE)
        for event in events:
            settled = await work.handle(event)
            if settled.state is not InboxState.DONE or settled.ends:
                break
        await self._settle(id_, settled, events)
        await self._look_again(endpoint, id_, settled, events)
        return settled

    async def wake_waiting(self) -> None:
        """Have deliveries processed whose order has arrived meanwhile."""
        async with unavailable_translated():
            await self._postgres.execute(_WAKE_ALL)

    async def _settle(self, id_: int, settled: DeliveryResult, events: Sequence[ShopEvent]) -> None:
        kept = events if settled.state in _KEPT_BODY and not settled.is_final else ()
        if settled.state is InboxState.WAITS_FOR_MEMBER:
            # The hashes in customer_keys find it when the member joins.
            kept = [replace(one, customer=ShopCustomer()) if isinstance(one, OrderPaid) else one for one in kept]
        body = dump_events(kept) if kept else None
        async with unavailable_translated():
            await self._postgres.execute(_SETTLE, id_, str(settled.state), settled.note, settled.member_id, body)

    async def _look_again(
        self, endpoint: HookEndpoint, id_: int, settled: DeliveryResult, events: Sequence[ShopEvent]
    ) -> None:
        """Process what waits for what has just arrived: it may have begun to wait in the same moment."""
        for event in events:
            if isinstance(event, OrderPaid) and settled.state is InboxState.DONE:
                await self._wake(endpoint, event.order_id)
            if isinstance(event, OrderPaid) and settled.state is InboxState.WAITS_FOR_MEMBER:
                member_id = await find_customer(self._postgres, endpoint, event.customer)
                if member_id is not None:
                    async with unavailable_translated(), self._postgres.acquire() as connection:
                        await release_for_member(
                            connection, keys_of_customer(endpoint.client_id, event.customer), member_id
                        )
                    await self.process(id_)

    async def _wake(self, endpoint: HookEndpoint, order_id: str) -> None:
        async with unavailable_translated():
            rows = await self._postgres.fetch(_WAKE, endpoint.id, order_id)
        for row in rows:
            await self.process(row["id"])


@dataclass(frozen=True, slots=True)
class _Work:
    """One delivery that is processed."""

    postgres: Pool
    executor: LoyaltyExecutor
    endpoint: HookEndpoint
    program: Program
    member_id: UUID | None

    async def handle(self, event: ShopEvent) -> DeliveryResult:
        match event:
            case OrderPaid():
                return await self._paid(event)
            case OrderRefunded():
                return await self._refunded(event)
            case OrderCancelled():
                return await self._take_back(event.order_id, TakeBack(self._order(event.order_id)), Act())
            case CustomerErased():
                was_member = await forget(self.postgres, self.endpoint, event.customer)
                note = "the member was erased" if was_member else "there is no such member"
                return DeliveryResult(InboxState.DONE, note)
            case DataRequested():
                return await self._asked(event)
            case _:
                assert_never(event)

    async def _paid(self, event: OrderPaid) -> DeliveryResult:
        amount_minor = minor_units(event.amount, event.currency)
        order = replace(self._order(event.order_id), amount_minor=amount_minor, currency=event.currency)
        known = await self._known(event.order_id)
        # Before the rate of today: its refunds may come in the same delivery.
        if known is not None:
            if (known.amount_minor, known.currency) != (order.amount_minor, event.currency):
                return DeliveryResult(InboxState.REFUSED, "order_differs: it has earned points for another amount")
            return DeliveryResult(InboxState.DONE, "the order has earned its points already")
        if self.program.state is ProgramState.ENDED:
            return DeliveryResult(InboxState.REFUSED, "the program has ended", is_final=True)
        rate = self.program.terms.earn
        if rate is None:
            return DeliveryResult(InboxState.REFUSED, "the terms of the program have no earn rate")
        if event.currency != rate.currency:
            return DeliveryResult(
                InboxState.REFUSED, f"the order is in {event.currency}, and the program earns by {rate.currency}"
            )
        if self.member_id is None:
            member_id = await find_customer(self.postgres, self.endpoint, event.customer)
        else:
            member_id = await find_present(self.postgres, self.endpoint, self.member_id)
        if member_id is None:
            return self._unknown(event)
        if event.includes_tax:
            await note_tax(self.postgres, self.program.id, order)
        account_id = await find_account(self.postgres, self.program, member_id)
        outcome = await self.executor.execute(
            account_id, Earn(order=order, reason=self._reason), client_id=self.program.client_id
        )
        if isinstance(outcome, Refusal):
            return _refused(outcome)
        points = 0 if outcome.entry is None else outcome.entry.points
        return DeliveryResult(InboxState.DONE, f"the order has earned {points} points", member_id)

    async def _asked(self, event: DataRequested) -> DeliveryResult:
        member_id = await find_customer(self.postgres, self.endpoint, event.customer)
        if member_id is None:
            return DeliveryResult(InboxState.DONE, "a customer who is no member asks for their data")
        note = "a member asks for their data: send what `issuer loyalty members export` returns"
        return DeliveryResult(InboxState.ASKS, note, member_id)

    def _unknown(self, event: OrderPaid) -> DeliveryResult:
        if self.member_id is not None:
            return DeliveryResult(InboxState.IGNORED, "the customer was erased")
        if event.customer.email or event.customer.ref:
            if self.endpoint.keeps_unknown:
                return DeliveryResult(InboxState.WAITS_FOR_MEMBER, "the customer is no member yet; the order waits")
            return DeliveryResult(InboxState.DONE, "the customer is no member", ends=True)
        note = "the order names no customer, or a card that is not assigned to one"
        return DeliveryResult(InboxState.DONE, note, ends=True)

    async def _refunded(self, event: OrderRefunded) -> DeliveryResult:
        order, amount = self._order(event.order_id), event.amount
        known = await self._known(event.order_id)
        if known is None:
            return _NO_ORDER
        if event.currency not in (None, known.currency):
            note = f"the refund is in {event.currency}, and the order has earned by {known.currency}"
            return DeliveryResult(InboxState.REFUSED, note)
        if event.tax and await includes_tax(self.postgres, self.program.id, order):
            amount -= event.tax
        minor = minor_units(max(amount, Decimal(0)), known.currency)
        if minor == 0:
            return DeliveryResult(InboxState.DONE, "nothing that earned points was refunded")
        if await has_counted(self.postgres, self.program.id, order, event.refund_id):
            return DeliveryResult(InboxState.DONE, "the refund has counted already")
        operation, act = TakeBack(order, minor, self._reason), CountRefund(self.program.id, order, event.refund_id)
        return await self._take_back(event.order_id, operation, act)

    async def _take_back(self, order_id: str, operation: TakeBack, act: Act[Applied]) -> DeliveryResult:
        known = await self._known(order_id)
        if known is None:
            return _NO_ORDER
        try:
            outcome = await self.executor.execute(
                known.account_id, operation, client_id=self.program.client_id, act=act
            )
        except RefundCountedError:
            return DeliveryResult(InboxState.DONE, "the refund has counted already")
        if isinstance(outcome, Refusal):
            if outcome.code is RefusalCode.ALREADY_REVERSED:
                return DeliveryResult(InboxState.DONE, "the whole order has been taken back already")
            return _refused(outcome)
        points = sum(entry.points for entry in outcome.entries if entry.op.startswith("take_back"))
        return DeliveryResult(InboxState.DONE, f"{points} points were taken back")

    @property
    def _reason(self) -> str:
        return f"hook {self.endpoint.source}"

    def _order(self, order_id: str) -> OrderRef:
        return OrderRef(self.endpoint.source, order_id)

    async def _known(self, order_id: str) -> KnownOrder | None:
        try:
            return await find_order(self.postgres, self.program, self._order(order_id))
        except OrderNotFoundError:
            return None


def minor_units(amount: Decimal, currency: str) -> int:
    """Return an amount in minor units of the currency, rounded down."""
    return int(amount.scaleb(CURRENCIES.get(currency) or 0).to_integral_value(ROUND_DOWN))


def _refused(refusal: Refusal) -> DeliveryResult:
    """Return what a refusal makes of a delivery. Raises NotYetError for one that passes."""
    if refusal.code is RefusalCode.PROGRAM_PAUSED:
        raise NotYetError("the program is paused: see `issuer loyalty programs show`")
    return DeliveryResult(InboxState.REFUSED, str(refusal.code))

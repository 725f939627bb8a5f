"""The inbox: verified deliveries, each stored once before it is answered, and listed until it expires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.instants import show_instant
from issuer.loyalty.hooks.customer_keys import keys_of_customer
from issuer.loyalty.hooks.endpoint import HookEndpoint
from issuer.loyalty.hooks.event_json import dump_events
from issuer.loyalty.hooks.events import (
    CustomerErased,
    DataRequested,
    Delivery,
    OrderCancelled,
    OrderPaid,
    OrderRefunded,
    ShopEvent,
)
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.postgres import AnyConnection, Pool, count_of, unavailable_translated

TASK: Final = "hook-inbox"
"""The maintenance task that processes what the API has not."""


class InboxState(StrEnum):
    """RECEIVED: to be processed. ASKS: an operator has to answer. REFUSED: it cannot be processed as it is."""

    RECEIVED = "received"
    WAITS_FOR_ORDER = "waits_for_order"
    WAITS_FOR_MEMBER = "waits_for_member"
    ASKS = "asks"
    DONE = "done"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A delivery in the inbox. `failures`, `error`, `retry_at`: of attempts that failed, if it is not processed yet."""

    id: int
    endpoint_id: UUID
    delivery_id: str
    message_id: str | None
    topic: str
    received_at: datetime
    state: InboxState
    note: str
    order_id: str | None
    member_id: UUID | None
    settled_at: datetime | None
    failures: int
    error: str | None
    retry_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return the delivery as the API and the command line show it: without personal data."""
        shown = {name: getattr(self, name) for name in ("received_at", "settled_at", "retry_at")}
        return {
            "id": self.id,
            "hook_id": str(self.endpoint_id),
            "delivery_id": self.delivery_id,
            "message_id": self.message_id,
            "topic": self.topic,
            "state": str(self.state),
            "note": self.note,
            "order_id": self.order_id,
            "member_id": None if self.member_id is None else str(self.member_id),
            "failures": self.failures,
            "error": self.error,
            **{name: None if at is None else show_instant(at) for name, at in shown.items()},
        }


_INSERT: Final = """
INSERT INTO hook_inbox (endpoint_id, delivery_id, topic, message_id, state, note, order_id, body, customer_keys,
  settled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, CASE WHEN $5 = 'received' THEN NULL ELSE now() END)
ON CONFLICT (endpoint_id, delivery_id) DO NOTHING RETURNING id"""

_ROWS: Final = f"""
SELECT i.id, i.endpoint_id, i.delivery_id, i.message_id, i.topic, i.received_at, i.state, i.note, i.order_id,
  i.member_id, i.settled_at, coalesce(t.failures, 0) AS failures, t.error, t.retry_at
FROM hook_inbox i JOIN hook_endpoints e ON e.id = i.endpoint_id
LEFT JOIN task_rows t ON t.task = '{TASK}' AND t.row_id = i.id::text AND t.failures > 0
WHERE ($1::uuid IS NULL OR i.endpoint_id = $1) AND ($2::uuid IS NULL OR e.program_id = $2)
  AND ($3::text IS NULL OR i.state = $3) AND i.id < $4
ORDER BY i.id DESC LIMIT $5"""

_EXPIRE: Final = """
DELETE FROM hook_inbox WHERE id IN (
  SELECT id FROM hook_inbox WHERE received_at < now() - make_interval(days => $1) ORDER BY received_at LIMIT $2)"""

_RELEASE: Final = """
UPDATE hook_inbox SET state = 'received', member_id = $2, note = '', settled_at = NULL
WHERE state = 'waits_for_member' AND customer_keys && $1"""

_CLAIM: Final = """
UPDATE hook_inbox SET member_id = $2 WHERE member_id IS NULL AND customer_keys && $1"""

FORGOTTEN: Final = """body = NULL, customer_keys = '{}',
  state = CASE WHEN state IN ('received', 'waits_for_member', 'asks') THEN 'ignored' ELSE state END,
  note = CASE WHEN state IN ('received', 'waits_for_member', 'asks') THEN 'the customer was erased' ELSE note END,
  settled_at = coalesce(settled_at, now())"""
"""What an erasure makes of a delivery. One that asks for the erasure stays until it is carried out."""

_FORGET: Final = f"""
UPDATE hook_inbox SET {FORGOTTEN} WHERE customer_keys && $1 AND topic <> 'customers/redact'"""

_RETRY: Final = """
UPDATE hook_inbox SET state = 'received', settled_at = NULL WHERE id = $1 AND state = 'refused' AND body IS NOT NULL"""

_SETTLE: Final = "UPDATE hook_inbox SET state = 'done', settled_at = now() WHERE id = $1 AND state = 'asks'"

_NEWEST: Final = 2**63 - 1


async def store_delivery(postgres: Pool, endpoint: HookEndpoint, delivery: Delivery) -> int | None:
    """Store a delivery, durable before this returns, and return its id; None: it is stored already."""
    state = InboxState.RECEIVED if delivery.events else InboxState.IGNORED
    async with unavailable_translated():
        id_: int | None = await postgres.fetchval(
            _INSERT, endpoint.id, delivery.id, delivery.topic, delivery.message_id, str(state), delivery.note,
            order_of(delivery.events), dump_events(delivery.events) if delivery.events else None,
            _keys(endpoint, delivery.events),
        )  # fmt: skip
    return id_


async def store_unreadable(postgres: Pool, endpoint: HookEndpoint, delivery_id: str, topic: str, why: str) -> None:
    """Store that a verified delivery could not be read, without its content."""
    async with unavailable_translated():
        await postgres.execute(
            _INSERT, endpoint.id, delivery_id, topic, None, str(InboxState.REFUSED), why, None, None, []
        )


async def list_inbox(
    postgres: Pool,
    *,
    endpoint_id: UUID | None = None,
    program_id: UUID | None = None,
    state: InboxState | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[InboxRow]:
    """Return one page of deliveries, newest first. Raises InvalidCursorError and PostgresUnavailableError."""
    (before,) = decode_cursor("inbox", cursor, (int,)) if cursor else (_NEWEST,)
    state_name = None if state is None else str(state)
    async with unavailable_translated():
        rows = await postgres.fetch(_ROWS, endpoint_id, program_id, state_name, before, limit + 1)
    found = [_row(row) for row in rows]
    return Page.of(found, limit, lambda last: encode_cursor("inbox", (last.id,)))


async def release_for_member(connection: AnyConnection, keys: Sequence[bytes], member_id: UUID) -> int:
    """Have the orders processed that waited for a customer until they became a member, in the caller's transaction."""
    return count_of(await connection.execute(_RELEASE, list(keys), member_id)) if keys else 0


async def claim_for_member(connection: AnyConnection, keys: Sequence[bytes], member_id: UUID) -> None:
    """Note whose deliveries these are, before the member has other names, in the caller's transaction."""
    if keys:
        await connection.execute(_CLAIM, list(keys), member_id)


async def forget_customer(postgres: Pool, keys: Sequence[bytes]) -> None:
    """Erase a customer from the inbox; orders that wait for them are ignored."""
    async with unavailable_translated():
        await postgres.execute(_FORGET, list(keys))


async def retry_delivery(postgres: Pool, id_: int) -> bool:
    """Have a refused delivery processed again, for example after the terms were changed."""
    async with unavailable_translated():
        return count_of(await postgres.execute(_RETRY, id_)) == 1


async def settle_request(postgres: Pool, id_: int) -> bool:
    """Note that an operator has answered what a delivery asks for."""
    async with unavailable_translated():
        return count_of(await postgres.execute(_SETTLE, id_)) == 1


async def remove_expired_deliveries(postgres: Pool, days: int, at_most: int) -> int:
    """Remove deliveries that arrived longer ago, processed or not. Orders and refunds stay counted."""
    async with unavailable_translated():
        return count_of(await postgres.execute(_EXPIRE, days, at_most))


def order_of(events: Sequence[ShopEvent]) -> str | None:
    """Return the order that a delivery is about; None: it is about a person, or nothing."""
    orders = (event for event in events if isinstance(event, OrderPaid | OrderRefunded | OrderCancelled))
    return next((event.order_id for event in orders), None)


def _keys(endpoint: HookEndpoint, events: Sequence[ShopEvent]) -> list[bytes]:
    people = (event for event in events if isinstance(event, OrderPaid | CustomerErased | DataRequested))
    return [key for event in people for key in keys_of_customer(endpoint.client_id, event.customer)]


def _row(row: asyncpg.Record) -> InboxRow:
    ids = {name: None if row[name] is None else UUID(bytes=row[name].bytes) for name in ("endpoint_id", "member_id")}
    return InboxRow(**{**dict(row), **ids, "state": InboxState(row["state"])})

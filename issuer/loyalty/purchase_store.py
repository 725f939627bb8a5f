"""Purchases in Postgres: begun with the debit, taken over by a later attempt, settled once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.loyalty.purchase import NewPurchase, Purchase, purchase_from_row
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

PURCHASES: Final = """
SELECT m.id, m.from_account AS account_id, m.reward_id, m.batch_id, m.points, m.state, m.code,
  (SELECT c.attributes::text FROM codes c WHERE c.code = m.code AND c.client_id = p.client_id) AS attributes,
  p.refusal, m.created_at, m.settled_at
FROM purchases p JOIN moves m ON m.id = p.move_id"""

_BEGIN: Final = """
INSERT INTO purchases (move_id, client_id, key_hash, api_key_id, request_key, request_sha256, customer_id,
  attempt_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + $8::float8 * interval '1 second')
ON CONFLICT (request_key) DO NOTHING RETURNING move_id"""

_FIND_REQUEST: Final = "SELECT move_id, request_sha256 FROM purchases WHERE request_key = $1"

# A row that another process takes over at this moment is its own.
_TAKE_OVER: Final = """
WITH due AS (
  SELECT move_id FROM purchases WHERE attempt_until < clock_timestamp() ORDER BY attempt_until LIMIT $1
  FOR UPDATE SKIP LOCKED)
UPDATE purchases p SET attempt = attempt + 1,
  attempt_until = clock_timestamp() + $2::float8 * interval '1 second'
FROM due, moves m WHERE p.move_id = due.move_id AND m.id = p.move_id
RETURNING p.move_id, p.client_id, p.key_hash, p.api_key_id, p.customer_id, p.attempt, m.batch_id, m.from_account,
  m.seq, m.created_at"""

_CLOSE: Final = "UPDATE purchases SET customer_id = NULL, attempt_until = NULL WHERE move_id = $1"
_DONE: Final = """
UPDATE moves SET state = 'done', code = $2, settled_at = clock_timestamp() WHERE id = $1 AND state = 'debited'
RETURNING id"""

_LOCK_ATTEMPT: Final = "SELECT attempt FROM purchases WHERE move_id = $1 AND attempt_until IS NOT NULL FOR UPDATE"
_UNDONE: Final = """
UPDATE purchases SET customer_id = NULL, attempt_until = NULL, request_key = NULL, request_sha256 = NULL, refusal = $2
WHERE move_id = $1"""


class RequestKnownError(Exception):
    """Another request with the same Idempotency-Key has begun a purchase. Nothing was changed."""


class StaleAttemptError(Exception):
    """A later attempt works on the move, or it is settled. Nothing was changed."""


class BeginPurchase(Act[Any]):
    """What a purchase's debit writes besides: the request, and the lease of the first attempt."""

    def __init__(self, new: NewPurchase, move_id: UUID, key_hash: bytes, lease_s: float) -> None:
        request = new.request
        self._values = (
            move_id, new.client_id, key_hash, new.actor.api_key_id or 0, request and request.hashed,
            request and request.request_sha256, new.customer.uuid, lease_s,
        )  # fmt: skip

    async def keep(self, connection: AnyConnection, result: Any) -> None:
        if await connection.fetchval(_BEGIN, *self._values) is None:
            raise RequestKnownError


class UndoPurchase(Act[Any]):
    """What giving the points back writes besides. Only the latest attempt may: an earlier one knows too little."""

    def __init__(self, move_id: UUID, attempt: int, refusal: str) -> None:
        self._move_id, self._attempt, self._refusal = move_id, attempt, refusal

    async def keep(self, connection: AnyConnection, result: Any) -> None:
        if await connection.fetchval(_LOCK_ATTEMPT, self._move_id) != self._attempt:
            raise StaleAttemptError
        await connection.execute(_UNDONE, self._move_id, self._refusal)


async def take_over(postgres: Pool, limit: int, lease_s: float) -> Sequence[asyncpg.Record]:
    """Begin another attempt of moves whose lease has ended, the longest ago first, and return them.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        return await postgres.fetch(_TAKE_OVER, limit, lease_s)


async def finish_purchase(postgres: Pool, move_id: UUID, code: str) -> None:
    """Record the code of a debited move, which is then done. A repetition changes nothing.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        await _record_code(connection, move_id, code)


async def _record_code(connection: AnyConnection, move_id: UUID, code: str) -> None:
    # The move first, as an undo locks them.
    if await connection.fetchval(_DONE, move_id, code) is not None:
        await connection.execute(_CLOSE, move_id)


async def find_request(postgres: Pool, request_key: bytes) -> asyncpg.Record | None:
    """Return `move_id` and `request_sha256` of the purchase that a request began. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        return await postgres.fetchrow(_FIND_REQUEST, request_key)


async def find_purchase(postgres: Pool, move_id: UUID) -> Purchase:
    """Return a purchase that exists. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(f"{PURCHASES} WHERE p.move_id = $1", move_id)
    assert row is not None
    return purchase_from_row(row)


async def list_purchases(
    postgres: Pool, account_ids: Sequence[int], *, limit: int = 100, cursor: str | None = None
) -> Page[Purchase]:
    """Return one page of what accounts bought, newest first. Raises InvalidCursorError, PostgresUnavailableError."""
    created_at, last_id = decode_cursor("purchases", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{PURCHASES} WHERE m.from_account = ANY($1::bigint[]) AND m.kind = 'purchase'"
            " AND ($2::timestamptz IS NULL OR (m.created_at, m.id) < ($2, $3::uuid))"
            " ORDER BY m.created_at DESC, m.id DESC LIMIT $4",
            account_ids, created_at, last_id, limit + 1,
        )  # fmt: skip
    purchases = [purchase_from_row(row) for row in rows]
    return Page.of(purchases, limit, lambda last: encode_cursor("purchases", (last.created_at, last.id)))

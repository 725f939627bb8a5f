"""Read the ledger: the redemptions of a batch, those of a customer, and what became of a code."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

from issuer.batches.store import find_batch
from issuer.ids import redemption_id
from issuer.names import without_unseen
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.pools.counters import NOT_IN_REDIS, read_pool_counters
from issuer.storage.postgres import Pool, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores


class CodeState(StrEnum):
    """What became of a code. UNKNOWN: it is not in the ledger, and Redis, which knows the rest, is unavailable."""

    AVAILABLE = "available"
    BACKLOG = "backlog"
    REDEEMED = "redeemed"
    QUARANTINED = "quarantined"
    DEAD_LETTER = "dead_letter"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One redemption in the ledger. `customer_id` None: erased, or redeemed without a customer id.

    `customer`: the text that the caller gave as the id; None: a UUID.
    """

    redemption_id: UUID
    batch_id: UUID
    batch_name: str
    client_id: UUID
    client_name: str | None
    pool_id: int
    seq: int
    code: str
    customer_id: UUID | None
    customer: str | None
    redeemed_at: datetime
    attributes: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class CodePlace:
    """One code in one batch. The redemption, its customer and its time are known once it is in the ledger."""

    batch_id: UUID
    batch_name: str
    client_id: UUID
    client_name: str | None
    seq: int
    code: str
    state: CodeState
    redemption_id: UUID | None
    customer_id: UUID | None
    customer: str | None
    redeemed_at: datetime | None
    attributes: dict[str, str] | None


_ENTRIES: Final = """
SELECT i.id AS installation, r.batch_id, b.name AS batch_name, p.client_id, k.name AS client_name, r.pool_id,
  r.seq, r.code, r.customer_id, r.customer_text AS customer, r.redeemed_at,
  (SELECT c.attributes::text FROM codes c WHERE c.pool_id = r.pool_id AND c.seq = r.seq) AS attributes
FROM redemptions r JOIN pools p ON p.id = r.pool_id JOIN batches b ON b.id = r.batch_id CROSS JOIN installation i
LEFT JOIN clients k ON k.id = p.client_id"""

_OF_BATCH: Final = f"""{_ENTRIES}
WHERE r.pool_id = ANY(SELECT id FROM pools WHERE batch_id = $1 AND ($2::uuid IS NULL OR client_id = $2))
  AND (r.pool_id, r.seq) > ($3, $4)
ORDER BY r.pool_id, r.seq LIMIT $5"""

_OF_CUSTOMER: Final = f"""{_ENTRIES}
WHERE r.customer_id = $1 AND ($2::uuid IS NULL OR p.client_id = $2)
  AND ($3::timestamptz IS NULL OR (r.redeemed_at, r.pool_id, r.seq) < ($3, $4::bigint, $5::bigint))
ORDER BY r.redeemed_at DESC, r.pool_id DESC, r.seq DESC LIMIT $6"""

_OF_CODE: Final = """
SELECT c.batch_id, b.name AS batch_name, p.client_id, k.name AS client_name, c.seq, c.code, r.customer_id,
  c.attributes::text AS attributes, r.customer_text AS customer, r.redeemed_at, p.opened, p.final_issued,
  r.seq IS NOT NULL AS redeemed,
  EXISTS (SELECT FROM quarantined s WHERE s.pool_id = c.pool_id AND s.seq = c.seq) AS quarantined,
  EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = c.pool_id AND d.seq = c.seq AND d.resolved_at IS NULL) AS dead
FROM codes c JOIN pools p ON p.id = c.pool_id JOIN batches b ON b.id = c.batch_id
LEFT JOIN clients k ON k.id = p.client_id
LEFT JOIN redemptions r ON r.pool_id = c.pool_id AND r.seq = c.seq
WHERE c.code = $1 AND ($2::uuid IS NULL OR p.client_id = $2) AND ($3::uuid IS NULL OR c.batch_id > $3)
ORDER BY c.batch_id LIMIT $4"""


async def redemptions_of_batch(
    postgres: Pool, batch_id: UUID, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[LedgerEntry]:
    """Return a page in the order of pool and seq. Raises BatchNotFoundError, InvalidCursorError."""
    pool_id, seq = decode_cursor("batch", cursor, (int, int)) if cursor else (0, 0)
    await find_batch(postgres, batch_id, client_id=client_id)
    async with unavailable_translated():
        rows = await postgres.fetch(_OF_BATCH, batch_id, client_id, pool_id, seq, limit + 1)
    entries = [_entry(row) for row in rows]
    return Page.of(entries, limit, lambda last: encode_cursor("batch", (last.pool_id, last.seq)))


async def redemptions_of_customer(
    postgres: Pool, customer_id: UUID, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[LedgerEntry]:
    """Return a page over all batches, newest first. Raises InvalidCursorError."""
    types = (datetime, int, int)
    position = decode_cursor("customer", cursor, types) if cursor else (None, None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(_OF_CUSTOMER, customer_id, client_id, *position, limit + 1)
    entries = [_entry(row) for row in rows]
    return Page.of(entries, limit, lambda last: encode_cursor("customer", (last.redeemed_at, last.pool_id, last.seq)))


async def places_of_code(
    stores: Stores, code: str, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[CodePlace]:
    """Return a page of the batches that have this code, and what became of it in each.

    Invisible characters in it are ignored, which come along with a paste. Raises InvalidCursorError.
    """
    code = without_unseen(code)
    (after,) = decode_cursor("code", cursor, (UUID,)) if cursor else (None,)
    if not _storable(code):
        return Page([], None)
    async with unavailable_translated():
        rows = await stores.postgres.fetch(_OF_CODE, code, client_id, after, limit + 1)
    # After the ledger: a redemption that is recorded in between is shown as "backlog", never as "available".
    issued = await _issued(stores, [row for row in rows if not row["redeemed"]])
    installation = stores.incarnations.installation_id
    places = [_place(row, issued.get(_uuid(row["batch_id"])), installation) for row in rows]
    return Page.of(places, limit, lambda last: encode_cursor("code", (last.batch_id,)))


async def _issued(stores: Stores, rows: list[Any]) -> dict[UUID, int]:
    """Return how many seqs of the code's pool were issued, by batch; empty when Redis is unavailable."""
    pools = [(_uuid(row["batch_id"]), _uuid(row["client_id"])) for row in rows]
    try:
        found = await read_pool_counters(stores.redis, pools)
    except RedisUnavailableError:
        return {}
    return {batch_id: (counters or NOT_IN_REDIS).issued for (batch_id, _), counters in zip(pools, found, strict=True)}


def _state(row: Any, issued: int | None) -> CodeState:
    if row["redeemed"]:
        return CodeState.REDEEMED
    if row["quarantined"]:
        return CodeState.QUARANTINED
    if row["dead"]:
        return CodeState.DEAD_LETTER
    if row["final_issued"] is not None:
        issued = row["final_issued"]
    elif not row["opened"]:
        issued = 0
    if issued is None:
        return CodeState.UNKNOWN
    return CodeState.BACKLOG if row["seq"] <= issued else CodeState.AVAILABLE


def _place(row: Any, issued: int | None, installation: UUID) -> CodePlace:
    return CodePlace(
        batch_id=_uuid(row["batch_id"]),
        batch_name=row["batch_name"],
        client_id=_uuid(row["client_id"]),
        client_name=row["client_name"],
        seq=row["seq"],
        code=row["code"],
        state=_state(row, issued),
        redemption_id=redemption_id(row["batch_id"], row["code"], installation) if row["redeemed"] else None,
        customer_id=_optional_uuid(row["customer_id"]),
        customer=row["customer"],
        redeemed_at=row["redeemed_at"],
        attributes=_attributes(row),
    )


def _entry(row: Any) -> LedgerEntry:
    return LedgerEntry(
        redemption_id=redemption_id(row["batch_id"], row["code"], _uuid(row["installation"])),
        batch_id=_uuid(row["batch_id"]),
        batch_name=row["batch_name"],
        client_id=_uuid(row["client_id"]),
        client_name=row["client_name"],
        pool_id=row["pool_id"],
        seq=row["seq"],
        code=row["code"],
        customer_id=_optional_uuid(row["customer_id"]),
        customer=row["customer"],
        redeemed_at=row["redeemed_at"],
        attributes=_attributes(row),
    )


def _attributes(row: Any) -> dict[str, str] | None:
    return None if row["attributes"] is None else orjson.loads(row["attributes"])


def _storable(text: str) -> bool:
    """Whether Postgres can store the text. NUL and lone surrogates it cannot, so no code contains them."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _uuid(value: Any) -> UUID:
    """The standard library's UUID: the driver's own is another class and would not serialise everywhere."""
    return UUID(bytes=value.bytes)


def _optional_uuid(value: Any) -> UUID | None:
    return None if value is None else _uuid(value)

"""The issued codes of a campaign, in order, including those that are not in the ledger yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from issuer.campaigns.campaign import Campaign
from issuer.instants import show_instant
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.pools.counters import read_pool_counters
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

BATCH_SIZE: Final = 10_000

# Pools are issued in order. A quarantined code may not have been issued: it is listed once it is in the ledger.
_FROM: Final = """
FROM codes c LEFT JOIN redemptions r ON r.pool_id = c.pool_id AND r.seq = c.seq
WHERE c.pool_id = $1 AND c.seq > $2 AND c.seq <= $3
  AND (r.seq IS NOT NULL OR NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = c.pool_id AND s.seq = c.seq))"""
_PAGE: Final = f"SELECT c.seq, c.code, r.redeemed_at {_FROM} ORDER BY c.seq LIMIT $4"
# One array instead of thousands of rows.
_NEXT_CODES: Final = f"SELECT coalesce(array_agg(c.code ORDER BY c.seq), '{{}}') {_FROM}"
_IN_LEDGER: Final = "SELECT coalesce(max(seq), 0) FROM redemptions WHERE pool_id = $1"


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """One issued code. `issued_at` None: it is not in the ledger yet."""

    seq: int
    code: str
    issued_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return the code as the API and the command line show it."""
        issued_at = None if self.issued_at is None else show_instant(self.issued_at)
        return {"seq": self.seq, "code": self.code, "issued_at": issued_at}


async def find_last_issued(stores: Stores, campaign: Campaign) -> int:
    """Return the seq of the last issued code: Redis' counter, or the ledger's highest seq if Redis is unavailable.

    Raises PostgresUnavailableError.
    """
    if campaign.final_issued is not None:
        return campaign.final_issued
    try:
        (counters,) = await read_pool_counters(stores.redis, [(campaign.id, campaign.client_id)])
    except RedisUnavailableError:
        counters = None
    if counters is not None:
        return counters.issued
    async with unavailable_translated():
        return int(await stores.postgres.fetchval(_IN_LEDGER, campaign.pool_id))


async def read_issued_page(stores: Stores, campaign: Campaign, *, limit: int, cursor: str | None) -> Page[IssuedCode]:
    """Return one page of issued codes in the order of issue. Raises InvalidCursorError, PostgresUnavailableError."""
    (after,) = decode_cursor("issued", cursor, (int,)) if cursor else (0,)
    last = await find_last_issued(stores, campaign)
    async with unavailable_translated():
        rows = await stores.postgres.fetch(_PAGE, campaign.pool_id, after, last, limit + 1)
    codes = [IssuedCode(row["seq"], row["code"], row["redeemed_at"]) for row in rows]
    return Page.of(codes, limit, lambda one: encode_cursor("issued", (one.seq,)))


async def read_issued_codes(stores: Stores, campaign: Campaign, last: int) -> AsyncIterator[list[str]]:
    """Yield the codes up to the seq `last`, BATCH_SIZE at a time. Raises PostgresUnavailableError."""
    for first in range(0, last, BATCH_SIZE):
        async with unavailable_translated():
            yield await stores.postgres.fetchval(_NEXT_CODES, campaign.pool_id, first, min(first + BATCH_SIZE, last))

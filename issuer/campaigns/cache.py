"""The campaigns in memory, so that a request for a code does not query Postgres.

The cache has what Redis does not store: the client of the pool, and whether the campaign is public. A campaign that was
just created, or that ended long ago, is looked up once; an unknown id is remembered for a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.storage.look_ups import LookUps
from issuer.storage.postgres import Pool, PostgresUnavailableError, unavailable_translated
from issuer.storage.table_watch import TableWatch

_TABLE_STATE: Final = "SELECT count(*), sum(revision)::bigint FROM campaigns"
_KNOWN: Final = "SELECT batch_id, client_id, public FROM campaigns"
_CURRENT: Final = f"""{_KNOWN} WHERE ready_at IS NOT NULL AND EXISTS (
    SELECT FROM batches b WHERE b.id = batch_id AND (b.ended_at IS NULL OR b.ended_at > now() - interval '1 day'))"""


@dataclass(frozen=True, slots=True)
class KnownCampaign:
    """The data of a campaign that a request for a code needs. `id`: a UUID in lower case. `public`: no key needed."""

    id: str
    client_id: UUID
    public: bool


class CampaignCache:
    """Campaigns by id. A change of `public` takes effect within 1 s; while Postgres is unavailable nothing changes."""

    POLL_S: Final = 0.5
    REFRESH_SIZE: Final = 500

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._known: dict[str, KnownCampaign] = {}
        self._look_ups: LookUps[UUID, KnownCampaign] = LookUps(self._look_up, "campaigns")
        self._table_state: tuple[Any, ...] | None = None
        self._watch = TableWatch(self._refresh, self.POLL_S, "campaigns")

    async def start(self) -> None:
        """Read the campaigns and start to watch them. If Postgres is unavailable the cache starts empty and retries."""
        with suppress(PostgresUnavailableError, asyncpg.PostgresError):
            await self._refresh()
        self._watch.start()

    async def aclose(self) -> None:
        """Stop watching and cancel all look-ups; their callbacks are not called."""
        await self._watch.aclose()
        await self._look_ups.aclose()

    def find(self, campaign_id: str) -> KnownCampaign | None:
        """Return the campaign with this id (a UUID in lower case) if the cache has it. Costs one dict look-up."""
        return self._known.get(campaign_id)

    async def look_up(self, campaign_id: UUID) -> KnownCampaign | None:
        """Return the campaign, from the cache or from Postgres; None: it does not exist, or cannot issue yet.

        Concurrent calls for one id share one query. Raises PostgresUnavailableError, LookUpsBusyError.
        """
        known = self._known.get(str(campaign_id))
        return known or await self._look_ups.find(campaign_id)

    def start_look_up(self, campaign_id: UUID, then: Callable[[KnownCampaign | Exception | None], None]) -> None:
        """Start `look_up` for a caller that cannot await it: `then` gets the result, unless the cache is closed."""
        self._look_ups.start(campaign_id, then)

    async def _look_up(self, campaign_id: UUID) -> KnownCampaign | None:
        table_state = self._table_state
        async with unavailable_translated():
            row = await self._postgres.fetchrow(f"{_KNOWN} WHERE batch_id = $1 AND ready_at IS NOT NULL", campaign_id)
        if row is None:
            return None
        known = _from_row(row)
        if table_state == self._table_state:
            # Otherwise a refresh in between may have read a later state of this campaign.
            self._known[known.id] = known
        return known

    async def _refresh(self) -> None:
        """Read the campaigns if one was created or changed since the last refresh."""
        async with unavailable_translated():
            row = await self._postgres.fetchrow(_TABLE_STATE)
            assert row is not None
            if (table_state := tuple(row)) != self._table_state:
                rows = await self._postgres.fetch(_CURRENT)
                known: dict[str, KnownCampaign] = {}
                for number, row in enumerate(rows, start=1):
                    campaign = _from_row(row)
                    known[campaign.id] = campaign
                    if number % self.REFRESH_SIZE == 0:
                        # Other requests are answered meanwhile, however many campaigns there are.
                        await asyncio.sleep(0)
                self._known = known
                self._look_ups.forget()
                self._table_state = table_state


def _from_row(row: Any) -> KnownCampaign:
    return KnownCampaign(str(row["batch_id"]), UUID(bytes=row["client_id"].bytes), row["public"])

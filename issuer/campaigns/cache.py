"""The campaigns that this process knows, in memory, so that asking for a code does not ask Postgres.

What is kept is what Redis does not know: whose pool it is, and whether anybody may ask. A campaign that was just made,
or that ended long ago, is looked up once; what is not there is remembered for a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from issuer.storage.postgres import Pool, PostgresUnavailableError, unavailable_translated

log = structlog.get_logger()

_MARKS: Final = "SELECT count(*), sum(revision)::bigint FROM campaigns"
_KNOWN: Final = "SELECT batch_id, client_id, public FROM campaigns"
_CURRENT: Final = f"""{_KNOWN} WHERE ready_at IS NOT NULL AND EXISTS (
    SELECT FROM batches b WHERE b.id = batch_id AND (b.ended_at IS NULL OR b.ended_at > now() - interval '1 day'))"""


@dataclass(frozen=True, slots=True)
class KnownCampaign:
    """What must be known to ask for a code. `id`: a UUID in lower case. `public`: anybody may."""

    id: str
    client_id: UUID
    public: bool


class LookUpsBusyError(Exception):
    """Too many campaigns that nobody here knows are being looked up."""


class CampaignCache:
    """Whether a campaign is public counts within 1 s of a change; while Postgres is away the ring stays as it is."""

    POLL_S: Final = 0.5
    MISSING_S: Final = 1.0
    MAX_MISSING: Final = 10_000
    MAX_CONCURRENT_LOOKUPS: Final = 2
    MAX_LOOKUPS: Final = 256

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._known: dict[str, KnownCampaign] = {}
        self._missing: dict[str, float] = {}
        self._look_ups: dict[str, asyncio.Task[KnownCampaign | None]] = {}
        self._slots = asyncio.Semaphore(self.MAX_CONCURRENT_LOOKUPS)
        self._seen: tuple[Any, ...] | None = None
        self._task: asyncio.Task[None] | None = None
        self._told: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Returns after a first look, or without one when Postgres is away; the ring goes on trying."""
        with suppress(PostgresUnavailableError, asyncpg.PostgresError):
            await self._refresh()
        self._task = asyncio.create_task(self._watch(), name="campaign-ring")

    async def aclose(self) -> None:
        tasks: set[asyncio.Task[Any]] = {*self._look_ups.values(), *self._told}
        if self._task is not None:
            tasks.add(self._task)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def find(self, campaign_id: str) -> KnownCampaign | None:
        """The campaign with this id (a UUID in lower case), if it is known here. Costs one look into a dict."""
        return self._known.get(campaign_id)

    async def look_up(self, campaign_id: UUID) -> KnownCampaign | None:
        """The campaign, known here or not; None: there is none, or it cannot issue yet.

        However many ask for one at a time, Postgres is asked once. Raises PostgresUnavailableError, LookUpsBusyError.
        """
        text = str(campaign_id)
        known = self._known.get(text)
        if known is not None or self._missing.get(text, 0.0) > time.monotonic():
            return known
        task = self._look_ups.get(text)
        if task is None:
            if len(self._look_ups) >= self.MAX_LOOKUPS:
                raise LookUpsBusyError("too many unknown campaigns are asked for")
            task = self._look_ups[text] = asyncio.create_task(self._look_up(campaign_id), name="look-up-campaign")
            task.add_done_callback(lambda _: self._look_ups.pop(text, None))
        # Whoever waits no longer does not end it for the others.
        return await asyncio.shield(task)

    def look_up_soon(self, campaign_id: UUID, then: Callable[[KnownCampaign | Exception | None], None]) -> None:
        """The same for who cannot wait: `then` is told, once, unless the ring is closed before."""

        async def look() -> None:
            try:
                found: KnownCampaign | Exception | None = await self.look_up(campaign_id)
            except Exception as error:
                found = error
            then(found)

        task = asyncio.create_task(look(), name="wait-for-campaign")
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _look_up(self, campaign_id: UUID) -> KnownCampaign | None:
        text, seen = str(campaign_id), self._seen
        async with self._slots, unavailable_translated():
            row = await self._postgres.fetchrow(f"{_KNOWN} WHERE batch_id = $1 AND ready_at IS NOT NULL", campaign_id)
        if row is None:
            if len(self._missing) >= self.MAX_MISSING:
                self._missing.clear()
            self._missing[text] = time.monotonic() + self.MISSING_S
            return None
        known = _known(row)
        if seen == self._seen:
            # Otherwise the table was read meanwhile, and may have had a later word.
            self._known[text] = known
        return known

    async def _watch(self) -> None:
        away = False
        while True:
            await asyncio.sleep(self.POLL_S)
            try:
                await self._refresh()
            except (PostgresUnavailableError, asyncpg.PostgresError) as error:
                if not away:
                    log.warning("Postgres is away; keeping the campaigns known so far", error=str(error))
                away = True
            else:
                away = False

    async def _refresh(self) -> None:
        """Reads the campaigns if any was made or changed since the last look."""
        async with unavailable_translated():
            marks = await self._postgres.fetchrow(_MARKS)
            assert marks is not None
            if (seen := tuple(marks)) != self._seen:
                rows = await self._postgres.fetch(_CURRENT)
                self._known = {known.id: known for known in map(_known, rows)}
                self._missing = {}
                self._seen = seen


def _known(row: Any) -> KnownCampaign:
    return KnownCampaign(str(row["batch_id"]), UUID(bytes=row["client_id"].bytes), row["public"])

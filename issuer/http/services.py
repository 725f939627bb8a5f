"""What the routes of one API process need, opened and closed with the application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field

from issuer.access.api_keys import KeyRing
from issuer.campaigns.cache import CampaignRing
from issuer.campaigns.feeds import CampaignFeeds
from issuer.coupons.locations import CouponPlaces
from issuer.engine.engine import Engine
from issuer.http.limiting.failed_lookups import Guesses
from issuer.http.limiting.rate_limits import RateLimits
from issuer.http.metrics.store_metrics import Vitals, take_vitals
from issuer.http.metrics.tally import Tally
from issuer.journal.segments import Journal
from issuer.rate_limits.leases import Leases
from issuer.recovery.journal_keeper import JournalKeeper
from issuer.recovery.opening import open_stores
from issuer.recovery.witness import Witness
from issuer.settings import Auth, Settings
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.stores import Stores

VITALS_AGE_S = 0.25
POOL_VITALS_AGE_S = 1.0
UPLOADS_AT_ONCE = 2
REPORTS_AT_ONCE = 2
LOOK_UPS_AT_ONCE = 256


@dataclass(slots=True)
class Services:
    """Nothing in here needs Redis or Postgres to be there: what is away is waited for in the background."""

    settings: Settings
    stores: Stores
    engine: Engine
    coupons: CouponPlaces
    keys: KeyRing
    campaigns: CampaignRing
    feeds: CampaignFeeds
    tally: Tally
    limits: RateLimits
    guesses: Guesses
    loads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UPLOADS_AT_ONCE))
    reports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REPORTS_AT_ONCE))
    look_ups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOK_UPS_AT_ONCE))
    _vitals: dict[bool, tuple[float, Vitals]] = field(default_factory=dict)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def knows_keys(self) -> bool:
        """Whether callers can be told apart. Without keys there is nothing to know."""
        return self.settings.auth is Auth.OFF or self.keys.loaded

    async def vitals(self, *, with_pools: bool = False) -> Vitals:
        """How the stores do, at most a moment ago: however many ask, the stores are asked once."""
        age_s = POOL_VITALS_AGE_S if with_pools else VITALS_AGE_S
        async with self._looking:
            taken_at, vitals = self._vitals.get(with_pools, (float("-inf"), Vitals(None, None)))
            if time.monotonic() - taken_at > age_s:
                # Who is not ready is asked for nothing, and would never learn that Redis takes writes again.
                try_writing = self.engine.refused
                vitals = await take_vitals(self.stores, with_pools=with_pools, try_writing=try_writing)
                if try_writing and vitals.redis_serves:
                    self.engine.refused = False
                self._vitals[with_pools] = (time.monotonic(), vitals)
            return vitals


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Opens everything; does not wait for Redis or Postgres. Closes in the order in which nothing is cut off."""
    async with open_stores(settings, postgres_size=settings.postgres_pool_size, wait_until_ready=False) as stores:
        # Data of another version stop the process; a Postgres that is away does not.
        with suppress(PostgresUnavailableError):
            await stores.incarnations.start()
        tally = Tally(settings.metrics_dir)
        keys = KeyRing(stores.postgres)
        journal = None if settings.journal_dir is None else Journal(settings.journal_dir)
        engine = Engine(settings, stores.incarnations, journal)
        leases = Leases(engine, most_waiting=settings.max_waiting)
        engine.carry(leases)
        limits, guesses = RateLimits(settings, leases, tally), Guesses(settings, leases, tally)
        tally.start()
        campaigns = CampaignRing(stores.postgres)
        feeds = CampaignFeeds(stores, most_listeners=settings.max_event_streams)
        await asyncio.gather(engine.start(), keys.start(), campaigns.start())
        witness = Witness(stores.postgres, engine, stores.guardian)
        async with witness.testifying(), _kept(settings, stores, journal):
            try:
                yield Services(
                    settings, stores, engine, CouponPlaces(engine), keys, campaigns, feeds, tally, limits, guesses
                )
            finally:
                await engine.aclose()
                await asyncio.gather(keys.aclose(), campaigns.aclose(), feeds.aclose())
                await tally.aclose()


def _kept(settings: Settings, stores: Stores, journal: Journal | None) -> AbstractAsyncContextManager[None]:
    if journal is None or settings.journal_dir is None:
        return nullcontext()
    return JournalKeeper(settings, stores.incarnations, journal, settings.journal_dir).keeping()

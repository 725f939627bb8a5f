"""What the routes of one API process need, opened and closed with the application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

from issuer.access.api_keys import KeyRing
from issuer.batches.name_cache import BatchNameCache
from issuer.campaigns.cache import CampaignCache
from issuer.campaigns.feeds import CampaignFeeds
from issuer.clients.registered import RegisteredClients
from issuer.coupons.locations import CouponLocations
from issuer.engine.engine import Engine
from issuer.http.limiting.failed_lookups import FailedLookupLimits
from issuer.http.limiting.fair_slots import Slots, Tenant
from issuer.http.limiting.login_limits import LoginLimits
from issuer.http.limiting.rate_limits import RateLimits
from issuer.http.metrics.now import NowFeed
from issuer.http.metrics.series_recorder import SeriesRecorder
from issuer.http.metrics.store_metrics import StoreMetrics, read_store_metrics
from issuer.http.metrics.tally import Tally
from issuer.http.security_log import SecurityLog
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.named_accounts import AccountName, NamedAccount, find_named_accounts
from issuer.loyalty.purchases import Purchases
from issuer.mail.mailer import Mailer
from issuer.rate_limits.leases import Leases
from issuer.recovery.opening import open_stores
from issuer.registration.registrar import Registrar
from issuer.settings import Auth, Settings
from issuer.storage.gathered_reads import GatheredReads
from issuer.storage.grants import Process
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.roles import log_rights
from issuer.storage.stores import Stores

MAX_METRICS_AGE_S = 0.25
MAX_POOL_METRICS_AGE_S = 1.0
MAX_LOOKUPS = 256


@dataclass(slots=True)
class Services:
    """Everything that a route uses. All of it works without Redis and Postgres: it connects in the background.

    `checks_keys`: whether requests need an API key. `mailer` None: no mail is sent.
    """

    settings: Settings
    stores: Stores
    engine: Engine
    coupons: CouponLocations
    keys: KeyRing
    batch_names: BatchNameCache
    registered_clients: RegisteredClients
    campaigns: CampaignCache
    feeds: CampaignFeeds
    tally: Tally
    limits: RateLimits
    lookup_limits: FailedLookupLimits
    login_limits: LoginLimits
    mailer: Mailer | None
    security: SecurityLog
    slots: Slots
    accounts: GatheredReads[AccountName, NamedAccount]
    loyalty: LoyaltyExecutor
    purchases: Purchases
    registrar: Registrar
    series: SeriesRecorder
    now: NowFeed
    look_ups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_LOOKUPS))
    _store_metrics: dict[bool, tuple[float, StoreMetrics]] = field(default_factory=dict)
    _reading_metrics: asyncio.Lock = field(default_factory=asyncio.Lock)
    checks_keys: bool = field(init=False)

    def __post_init__(self) -> None:
        self.checks_keys = self.settings.auth is Auth.ON

    def operation(self, tenant: Tenant) -> AbstractAsyncContextManager[None]:
        """Return the context of short work in Postgres: it waits for a slot as long as for a statement."""
        return self.slots.operations.hold(tenant, wait_s=self.settings.postgres_timeout_s)

    @property
    def knows_keys(self) -> bool:
        """Whether this process can check API keys: it has read them, or needs none."""
        return not self.checks_keys or self.keys.loaded

    async def store_metrics(self, *, with_pools: bool = False) -> StoreMetrics:
        """Return the metrics of the stores, read at most a moment ago: concurrent callers share one read."""
        age_s = MAX_POOL_METRICS_AGE_S if with_pools else MAX_METRICS_AGE_S
        async with self._reading_metrics:
            taken_at, store_metrics = self._store_metrics.get(with_pools, (float("-inf"), StoreMetrics(None, None)))
            if time.monotonic() - taken_at > age_s:
                # A process that is not ready gets no requests, so it would never see that Redis accepts writes again.
                try_writing = self.engine.is_refused
                store_metrics = await read_store_metrics(self.stores, with_pools=with_pools, try_writing=try_writing)
                if try_writing and store_metrics.redis_serves:
                    self.engine.note_writable()
                self._store_metrics[with_pools] = (time.monotonic(), store_metrics)
            return store_metrics


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open everything without waiting for Redis or Postgres; close it in an order that cuts no request off."""
    async with open_stores(settings, postgres_size=settings.postgres_pool_size, wait_until_ready=False) as stores:
        # Data of another version stop the process; an unavailable Postgres does not.
        with suppress(PostgresUnavailableError):
            await stores.incarnations.start()
            await log_rights(stores.postgres, Process.API)
        tally = Tally(settings.metrics_dir)
        keys = KeyRing(stores.postgres)
        engine = Engine(settings, stores.incarnations)
        leases = Leases(engine, max_waiting=settings.max_waiting)
        engine.carry(leases)
        limits, lookup_limits = RateLimits(settings, leases, tally), FailedLookupLimits(settings, leases, tally)
        security = SecurityLog(limits.address_of)
        mailer = None if settings.mail_server is None else Mailer(settings)
        if mailer is not None:
            mailer.start()
        tally.start()
        batch_names, campaigns = BatchNameCache(stores.postgres), CampaignCache(stores.postgres)
        batch_names.start()
        registered_clients = RegisteredClients(stores.postgres)
        feeds, slots = CampaignFeeds(stores), Slots.of(settings, tally.refuse_slot)
        now = NowFeed(stores, engine)
        loyalty = LoyaltyExecutor(stores.postgres, timeout_s=settings.postgres_timeout_s)
        accounts = GatheredReads(stores.postgres, find_named_accounts, timeout_s=settings.postgres_timeout_s)
        await asyncio.gather(engine.start(), keys.start(), campaigns.start())
        series = SeriesRecorder(stores.postgres, engine, tally)
        series.start()
        purchases = Purchases(stores, engine, loyalty)
        registrar = Registrar(settings, stores.postgres, stores.incarnations, engine)
        async with registrar.registered(), purchases.continuing():
            try:
                await registrar.wait_for_start()
                locations = CouponLocations(engine)
                yield Services(
                    settings,
                    stores,
                    engine,
                    locations,
                    keys,
                    batch_names,
                    registered_clients,
                    campaigns,
                    feeds,
                    tally,
                    limits,
                    lookup_limits,
                    LoginLimits(settings, leases, tally),
                    mailer,
                    security,
                    slots,
                    accounts,
                    loyalty,
                    purchases,
                    registrar,
                    series,
                    now,
                )
            finally:
                security.end_period()
                # The engine first: what is in flight is answered while everything else still works.
                await asyncio.gather(engine.aclose(), loyalty.aclose(), accounts.aclose())
                await series.aclose()
                await asyncio.gather(keys.aclose(), campaigns.aclose(), feeds.aclose(), now.aclose())
                await asyncio.gather(batch_names.aclose(), registered_clients.aclose())
                if mailer is not None:
                    await mailer.aclose()
                await tally.aclose()

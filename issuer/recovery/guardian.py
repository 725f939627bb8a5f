"""Recovery: what happens before a Redis server may hand out codes, at the first start and after each of its lives.

Order: fence, drain the surviving stream, replay journals, compare, quarantined, rebuild, bless. All of it under one
advisory lock in Postgres; every step can be repeated, and what was decided stays decided (`installation.recovering`),
so a recovery that is killed is continued by the next process that looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import orjson
import structlog

from issuer.contract.events import EVENT_FORMAT
from issuer.recovery import rebuild
from issuer.recovery.inspection import (
    Finding,
    IncidentError,
    PoolState,
    ServerIdentity,
    Verdict,
    foreign_installations,
    judge,
    look_at_partitions,
    look_at_pools,
    look_at_server,
)
from issuer.recovery.lock import HeldLink, recovery_lock
from issuer.recovery.replay import hosts_not_seen, replay_host
from issuer.recovery.witness import contradictions
from issuer.settings import Settings
from issuer.storage.incarnation import Incarnations, InstallationError
from issuer.storage.postgres import (
    Connection,
    Pool,
    PostgresUnavailableError,
    unavailable_translated,
)
from issuer.storage.redis_link import Link, RedisUnavailableError

log = structlog.get_logger()

WATCH_EVERY_S: Final = 1.0
LEASE: Final = timedelta(seconds=4)
"""A server at another address is not blessed while the blessed one was seen alive this recently."""


@dataclass(slots=True)
class RecoveryReport:
    """What a recovery found and did."""

    epoch: int
    verdict: Verdict
    reasons: list[str]
    server: ServerIdentity
    drained: int = 0
    replayed: int = 0
    journals_not_seen: list[str] = field(default_factory=list)
    pools: list[PoolState] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What an operator knows and the machine cannot: see `issuer recover --help`."""

    restored: bool = False
    margin: int = 0
    dry_run: bool = False


class Recovery:
    """One recovery, with the lock held on `postgres` and an unfenced connection to the server."""

    def __init__(self, settings: Settings, postgres: Connection, link: HeldLink, orders: RecoveryOptions) -> None:
        self._settings = settings
        self._postgres = postgres
        self._link = link
        self._orders = orders

    async def run(self) -> RecoveryReport | None:
        """Recovers and blesses; None if the server is blessed already (and no order forces a recovery)."""
        row = await self._postgres.fetchrow("SELECT * FROM installation")
        assert row is not None
        if row["event_format"] > EVENT_FORMAT:
            raise IncidentError(f"event format {row['event_format']} of the data is newer than {EVENT_FORMAT}: upgrade")
        forced = self._orders.restored or self._orders.margin > 0
        states = await look_at_partitions(self._link, row["partitions"])
        if others := foreign_installations(states, row["id"]):
            raise IncidentError(
                f"these data in Redis belong to another installation ({', '.join(others)}), not to {row['id']}: correct"
                " ISSUER_REDIS_URL or ISSUER_DATABASE_URL; empty this Redis database only if nobody needs it"
            )
        # A server that was flushed, or was a replica meanwhile, has the same run_id and other data.
        blessed = row["run_id"] == self._link.run_id and all(s.get("epoch") == str(row["epoch"]) for s in states)
        if blessed and not forced and not self._orders.dry_run:
            return None
        server = await look_at_server(self._link, _address(self._settings))
        last = await self._postgres.fetchrow(
            "SELECT *, seen_at > now() - $1::interval AS alive FROM incarnations ORDER BY epoch DESC LIMIT 1", LEASE
        )
        before = orjson.loads(last["server"]) if last else None
        await self._refuse_unfit(server, row["run_id"], before, alive=bool(last and last["alive"]))
        pools = await look_at_pools(self._link, self._postgres, row["partitions"])
        if any(int(state.get("blessed_epoch", 0)) > row["epoch"] for state in states) and not forced:
            raise IncidentError(
                "Redis is ahead of Postgres: was Postgres restored from a backup? See `issuer recover --help`"
            )
        finding = judge(server, before, last["epoch"] if last else 0, states, pools)
        if finding.verdict is Verdict.RESTART and not forced:
            doubts = await contradictions(
                self._postgres, last["epoch"] if last else 0, states, wait=not self._orders.dry_run
            )
            finding = Finding(Verdict.LOSS, doubts) if doubts else finding
        if forced:
            finding = Finding(Verdict.LOSS, [*finding.reasons, "announced by the operator"])
        begun = orjson.loads(row["recovering"]) if row["recovering"] else {}
        if begun.get("verdict") == Verdict.LOSS and finding.verdict is not Verdict.LOSS:
            finding = Finding(Verdict.LOSS, begun["reasons"])
        bound = max(0 if begun.get("quarantined") else row["max_backlog"], self._orders.margin)
        report = RecoveryReport(row["epoch"] + 1, finding.verdict, finding.reasons, server, pools=pools)
        if self._orders.dry_run:
            if finding.verdict is Verdict.LOSS:
                await rebuild.plan_quarantine(self._postgres, pools, bound, begun)
                report.journals_not_seen = await hosts_not_seen(self._postgres, report.epoch)
            return report

        epoch = report.epoch = await self._fence(finding, begun, states)
        mark = rebuild.PartitionMark(row["id"], epoch, row["partitions"], row["max_backlog"])
        await rebuild.fence_partitions(self._link, mark)
        if finding.verdict is Verdict.LOSS:
            log.warning("recovering a Redis that may have lost redemptions", reasons=finding.reasons)
            report.drained = await rebuild.drain_streams(self._link, self._postgres, mark)
            if self._settings.journal_dir is not None:
                report.replayed = (await replay_host(self._postgres, self._settings.journal_dir, epoch)).inserted
            report.journals_not_seen = await hosts_not_seen(self._postgres, epoch)
            await rebuild.quarantine(self._postgres, epoch, pools, bound, begun)
            await rebuild.rebuild_partitions(self._link, self._postgres, mark, pools)
        else:
            if finding.verdict is Verdict.FIRST:
                # Batches may be there before the first pool is opened, and this server need not know them.
                await rebuild.rebuild_partitions(self._link, self._postgres, mark, pools)
            for pool in pools:
                pool.issued_after = pool.issued_before or 0
        await self._bless(mark, server, report)
        log.info("blessed", epoch=epoch, verdict=finding.verdict, quarantined=sum(p.quarantined for p in pools))
        return report

    async def _refuse_unfit(
        self, server: ServerIdentity, blessed_run_id: str | None, before: dict[str, Any] | None, *, alive: bool
    ) -> None:
        if server.role != "master":
            raise RedisUnavailableError(f"this server is a {server.role}, not a primary")
        if server.evicting:
            raise IncidentError("maxmemory-policy must be noeviction: another policy throws codes and limits away")
        if await self._postgres.fetchval(
            "SELECT true FROM incarnations WHERE run_id = $1 AND epoch < (SELECT max(epoch) FROM incarnations)",
            server.run_id,
        ):
            raise IncidentError("this Redis server was replaced by another one; it must not hand out codes any more")
        if blessed_run_id is None or server.run_id == blessed_run_id or before is None:
            return
        if alive and before["address"] != server.address:
            raise RedisUnavailableError("the blessed Redis server was alive a moment ago; not blessing another one yet")

    async def _fence(self, finding: Finding, begun: dict[str, Any], states: Sequence[dict[str, str]]) -> int:
        """From here on nothing is acknowledged or handed out until the end. Returns the new epoch."""
        plan = begun | {"verdict": finding.verdict, "reasons": finding.reasons}
        limit_s = self._settings.postgres_timeout_s
        # Redis is ahead where Postgres was restored from a backup; its epochs must go up all the same.
        highest = max(abs(int(state.get("epoch", 0))) for state in states)
        while True:
            try:
                async with self._postgres.transaction():
                    await self._postgres.execute(f"SET LOCAL lock_timeout = {int(limit_s * 1000)}")
                    epoch: int = await self._postgres.fetchval(
                        "UPDATE installation SET epoch = greatest(epoch, $2) + 1, run_id = NULL, recovering = $1"
                        " RETURNING epoch",
                        orjson.dumps(plan).decode(), highest,
                    )  # fmt: skip
                return epoch
            except asyncpg.LockNotAvailableError:
                # A worker holds the row for one transaction. One that lost its network in the middle holds it for ever.
                ended = await self._postgres.fetch(_END_ABANDONED, limit_s)
                log.warning("ended transactions that held the recovery up", transactions=len(ended))

    async def _bless(self, mark: rebuild.PartitionMark, server: ServerIdentity, report: RecoveryReport) -> None:
        # Redis first: if we die in between, nobody is blessed and the next recovery begins with the same data.
        await rebuild.bless_partitions(self._link, mark)
        summary = report.to_json()
        del summary["pools"]
        async with self._postgres.transaction():
            await self._postgres.execute(
                "INSERT INTO incarnations (epoch, run_id, server, verdict, report) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch, server = excluded.server,"
                " verdict = excluded.verdict, report = excluded.report, blessed_at = now(), seen_at = now()",
                mark.epoch, server.run_id, orjson.dumps(asdict(server)).decode(), report.verdict,
                orjson.dumps(summary).decode(),
            )  # fmt: skip
            await self._postgres.execute("UPDATE installation SET run_id = $1, recovering = NULL", server.run_id)


_END_ABANDONED: Final = """
SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND a.datname = current_database()
  AND a.xact_start < clock_timestamp() - $1::float8 * interval '1 second'
  AND a.pid IN (SELECT pid FROM pg_locks WHERE granted AND relation = 'installation'::regclass)"""


def _address(settings: Settings) -> str:
    parts = urlsplit(settings.redis_url.get_secret_value())
    if parts.scheme == "unix":
        return parts.path
    if parts.scheme == "sentinel":
        return f"sentinel:{parts.path}"
    return f"{parts.hostname}:{parts.port or 6379}{parts.path}"


class Guardian:
    """Keeps watch over the server: recovers it when it is not the blessed one, and tells Postgres that it is alive."""

    def __init__(self, settings: Settings, postgres: Pool, incarnations: Incarnations) -> None:
        self._settings = settings
        self._postgres = postgres
        self._incarnations = incarnations
        self._link = Link(settings, None)
        self._checking = asyncio.Lock()
        self._started = False
        self.trouble = ""

    def doubts(self, run_id: str) -> bool:
        """Whether that server may not be there any more, as far as the guardian's own connection tells."""
        return bool(self.trouble) or (self._link.is_open and self._link.run_id != run_id)

    async def check(self, orders: RecoveryOptions | None = None) -> RecoveryReport | None:
        """Recovers the server if it is not the blessed one (or `orders` say so); returns once it is blessed.

        Raises RedisUnavailableError, PostgresUnavailableError, IncidentError (a person must decide).
        """
        async with self._checking:
            return await self._check(orders)

    async def _check(self, orders: RecoveryOptions | None) -> RecoveryReport | None:
        if self._link.is_open:
            await self._link.call([("PING",)], timeout_s=2.0)
        if not self._link.is_open or self._settings.redis_url.get_secret_value().startswith("sentinel"):
            await self._link.open()
        blessed = self._incarnations.blessed
        if orders is None and blessed is not None and blessed.run_id == self._link.run_id:
            states = await look_at_partitions(self._link, self._incarnations.partitions)
            if all(state.get("epoch") == str(blessed.epoch) for state in states):
                return None
        with suppress(PostgresUnavailableError):
            # Postgres hears of a recovery before Redis does. Who waits for the lock without knowing of it would keep a
            # connection to the server, and be waited for.
            await self._incarnations.refresh()
        try:
            async with unavailable_translated(), recovery_lock(self._settings) as connection:
                held = HeldLink(self._link, connection)
                report = await Recovery(self._settings, connection, held, orders or RecoveryOptions()).run()
        finally:
            with suppress(PostgresUnavailableError):
                await self._incarnations.refresh()
        return report

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keeps watch in the background until the block ends."""
        task = asyncio.create_task(self._watch(), name="guardian")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def aclose(self) -> None:
        await self._link.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
                self.trouble = ""
            except (RedisUnavailableError, PostgresUnavailableError, IncidentError, InstallationError) as error:
                if str(error) != self.trouble:
                    log.warning("not ready", reason=str(error))
                self.trouble = str(error)
            except Exception as error:
                # Without a guardian this process would never be ready again after the next restart of Redis.
                trouble = f"{type(error).__name__}: {error}"
                if trouble != self.trouble:
                    log.exception("the guardian has met what it does not know, and looks again")
                self.trouble = trouble
            self._incarnations.wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_EVERY_S if not self.trouble else WATCH_EVERY_S / 5):
                    await self._incarnations.wake.wait()

    async def _look(self) -> None:
        if not self._started:
            await self._incarnations.start()
            self._started = True
        with suppress(PostgresUnavailableError):
            await self._incarnations.refresh()
        await self.check()
        blessed = self._incarnations.blessed
        if blessed is not None and blessed.run_id == self._link.run_id:
            with suppress(PostgresUnavailableError):
                async with unavailable_translated():
                    await self._postgres.execute(
                        "UPDATE incarnations SET seen_at = now()"
                        " WHERE run_id = $1 AND seen_at < now() - interval '1 second'",
                        blessed.run_id,
                    )

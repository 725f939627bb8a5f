"""The maintenance tasks of a worker: top-ups, batch revisions, generation jobs, ended batches, heartbeat, cleanup."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID

import orjson
import structlog

from issuer.access import audit_chain
from issuer.access.audit_chain import AuditHead
from issuer.batches import tombstones
from issuer.batches.revisions import push_batch
from issuer.contract.keys import GROUP, partition_keys
from issuer.contract.scripts import REMOVE_CONSUMERS
from issuer.generating import job_runner
from issuer.ledger.anomalies import Anomaly, record_anomalies
from issuer.ledger.dead_letters import remove_resolved
from issuer.loyalty import sweeping
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.hooks import inbox
from issuer.pools import top_up
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import PoolError
from issuer.reconciliation import runs
from issuer.recovery.aftermath import finish_recoveries
from issuer.registration.registrations import forget_settled
from issuer.series import rates
from issuer.series.retention import delete_expired_series
from issuer.sessions.login_tokens import delete_expired_tokens
from issuer.sessions.session_store import delete_expired_sessions
from issuer.storage.kept_answers import delete_expired_answers
from issuer.storage.lineage import remove_expired_tokens
from issuer.storage.postgres import PostgresUnavailableError, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError, redis_errors_translated, time_ms
from issuer.storage.stores import Stores
from issuer.storage.task_rows import WHOLE_TASK, TaskRows
from sync_worker.maintenance import hook_inbox
from sync_worker.worker import BackOff, WorkerProgress, pause

log = structlog.get_logger()

SYNC: Final = "batch-sync"
THOROUGH_EVERY_S: Final = 60.0
CONSUMER_IDLE_MS: Final = 3_600_000
FORGET_WORKERS_AFTER: Final = "1 day"
EXPIRED_BATCH_SIZE: Final = 1_000

TRANSIENT: Final = (PostgresUnavailableError, RedisUnavailableError, RedisMemoryError, PoolError)
"""Errors that pass: a store is unavailable, busy or full."""


@dataclass(frozen=True, slots=True)
class MaintenanceTask:
    """Work that is repeated, `every_s` after it was last finished."""

    name: str
    every_s: float
    act: Callable[[], Awaitable[None]]
    rows: TaskRows
    blessed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a server is blessed: what failed because there was none is tried at once."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Repeat the work until the worker stops. Every error is retried; one that is not TRANSIENT is recorded."""
        back_off, reason = BackOff(stopping, self.blessed), ""
        # At the start as if there had been an error: that of an earlier process may be recorded.
        has_failed = True
        while not stopping.is_set():
            try:
                has_failed = await self._attempt(has_failed)
            except TRANSIENT as error:
                if str(error) != reason:
                    log.warning(
                        "maintenance task failed; retrying", task=self.name, reason=f"{type(error).__name__}: {error}"
                    )
                reason = str(error)
                await back_off.wait()
                continue
            reason = ""
            if has_failed:
                await back_off.wait()
            else:
                back_off.reset()
                await pause(stopping, self.every_s)

    async def _attempt(self, has_failed: bool) -> bool:
        """Do the work once. Return whether it failed with an error outside any row; `has_failed`: the time before.

        Rows are isolated, so that is an error of the task itself, such as in the query that lists its rows. It is
        recorded and reported; the ledger and the other tasks go on.
        """
        try:
            await self.act()
        except TRANSIENT:
            raise
        except Exception as error:
            await self.rows.fail(self.name, WHOLE_TASK, error)
            return True
        if has_failed:
            await self.rows.forget(self.name, WHOLE_TASK)
        return False


class MaintenanceTasks:
    """The maintenance tasks of one worker process."""

    def __init__(self, stores: Stores, rows: TaskRows, name: str, progress: WorkerProgress) -> None:
        self._stores = stores
        self._rows = rows
        self._name = name
        self._progress = progress
        self._thorough_at = 0.0
        self._rates_at = 0.0
        self._audit_head: AuditHead | None = None
        self._loyalty = LoyaltyExecutor(stores.postgres, timeout_s=stores.settings.postgres_timeout_s)

    def all(self) -> tuple[MaintenanceTask, ...]:
        tasks: tuple[tuple[str, float, Callable[[], Awaitable[None]]], ...] = (
            (top_up.TASK, 0.1, self.top_up),
            (SYNC, 1.0, self.sync_batches),
            (job_runner.TASK, 0.2, self.generate),
            (tombstones.TASK, 5.0, self.free_ended),
            (inbox.TASK, 2.0, self.process_inbox),
            (sweeping.TASK, 1.0, self.sweep_points),
            (rates.TASK, rates.EVERY_S, self.refresh_rates),
            ("heartbeat", 1.0, self.report_heartbeat),
            ("remove-consumers", 600.0, self.remove_consumers),
            ("finish-recoveries", 0.5, self.finish_recoveries),
            (runs.TASK, 1.0, self.reconcile),
            ("forget-registrations", 600.0, self.forget_registrations),
            ("retention", 600.0, self.remove_expired),
            ("audit-head", 600.0, self.log_audit_head),
        )
        found = tuple(MaintenanceTask(name, every_s, act, self._rows) for name, every_s, act in tasks)

        def note_blessing() -> None:
            if self._stores.incarnations.blessed is not None:
                for task in found:
                    task.blessed.set()

        self._stores.incarnations.on_change(note_blessing)
        return found

    async def top_up(self) -> None:
        # The hints in `pools` may be wrong after a crash, so every pool is checked at the start and once a minute.
        thorough = time.monotonic() >= self._thorough_at
        await top_up.top_up(self._stores, self._rows, thorough=thorough)
        if thorough:
            self._thorough_at = time.monotonic() + THOROUGH_EVERY_S

    async def sync_batches(self) -> None:
        """Bring revisions to Redis that were left behind, because Redis was unavailable or a process was killed."""
        async with unavailable_translated():
            found = await self._stores.postgres.fetch(_NOT_IN_REDIS)
        revisions = {str(row["id"]): row["revision"] for row in found}
        for row in await self._rows.due(SYNC, revisions):
            act = partial(push_batch, self._stores, UUID(row))
            await self._rows.work(SYNC, row, act, version=revisions[row])

    async def generate(self) -> None:
        """Generate one chunk of codes for the job that is due and that no other process works on."""
        await job_runner.work_on_jobs(self._stores, self._rows)

    async def free_ended(self) -> None:
        await tombstones.free_ended_batches(self._stores, self._rows)

    async def process_inbox(self) -> None:
        await hook_inbox.process_inbox(self._stores, self._loyalty, self._rows)

    async def sweep_points(self) -> None:
        """Let holds and points expire and pending points become available, where no request does it first."""
        await sweeping.sweep_due(self._stores.postgres, self._loyalty, self._rows)

    async def report_heartbeat(self) -> None:
        """Write the row in `workers` that shows that this worker runs, and how far the ledger is behind."""
        detail: dict[str, Any] = asdict(self._progress)
        try:
            detail["lag_events"], detail["lag_s"] = await self.lag()
        except RedisUnavailableError as error:
            detail["error"] = detail["error"] or f"Redis: {error}"
        async with unavailable_translated():
            await self._stores.postgres.execute(_HEARTBEAT, self._name, orjson.dumps(detail).decode())

    async def lag(self) -> tuple[int, float]:
        """Return the redemptions that are not in the ledger yet, and the age in seconds of the oldest event."""
        # In one MULTI: the script writes entries and backlog together, and an ack removes them together.
        pipeline = self._stores.redis.client.pipeline(transaction=True)
        pipeline.time()
        for partition in range(self._stores.redis.partitions):
            keys = partition_keys(partition)
            pipeline.hget(keys.state, "backlog")
            pipeline.xrange(keys.stream, count=1)
        async with redis_errors_translated():
            now, *replies = await pipeline.execute()
        counts = [int(count or 0) for count in replies[::2]]
        cut = [p for p, (count, first) in enumerate(zip(counts, replies[1::2], strict=True)) if count and not first]
        if cut:
            await self._note_cut(cut, counts)
        backlog = sum(counts)
        oldest_ms = min((int(first[0][0].partition(b"-")[0]) for first in replies[1::2] if first), default=None)
        return backlog, 0.0 if oldest_ms is None else max(0, time_ms(now) - oldest_ms) / 1000

    async def _note_cut(self, partitions: Sequence[int], counts: Sequence[int]) -> None:
        """Record that streams are empty although redemptions in them are not in the ledger: events were deleted.

        The backlog keeps counting them, so that the bound includes them until a recovery has found out which they are.
        """
        anomalies = [
            Anomaly(
                "events_deleted", None, None, {"epoch": self._stores.redis.epoch, "partition": p, "count": counts[p]}
            )
            for p in partitions
        ]
        async with unavailable_translated(), self._stores.postgres.acquire() as connection:
            await record_anomalies(connection, anomalies)

    async def finish_recoveries(self) -> None:
        await finish_recoveries(self._stores)

    async def reconcile(self) -> None:
        """Make the reconciliation that an operator has asked for."""
        await runs.work_on_runs(self._stores, self._rows)

    async def forget_registrations(self) -> None:
        async with unavailable_translated():
            await forget_settled(self._stores.postgres)

    async def remove_expired(self) -> None:
        """Remove what the retention settings no longer keep, in steps of bounded size (docs/retention.md)."""
        settings, postgres = self._stores.settings, self._stores.postgres
        if settings.audit_retention_days is not None:
            while await audit_chain.cut(postgres, settings.audit_retention_days):
                pass
        while await remove_resolved(postgres, settings.dead_letter_retention_days, EXPIRED_BATCH_SIZE):
            pass
        for delete_expired in (
            delete_expired_answers, delete_expired_sessions, delete_expired_tokens, remove_expired_tokens,
            delete_expired_series,
        ):  # fmt: skip
            while await delete_expired(postgres, EXPIRED_BATCH_SIZE):
                pass
        while await inbox.remove_expired_deliveries(postgres, settings.hook_retention_days, EXPIRED_BATCH_SIZE):
            pass

    async def log_audit_head(self) -> None:
        """Log the head of the audit log when it has changed: logs are kept outside of the database."""
        head = await audit_chain.read_head(self._stores.postgres)
        if head != self._audit_head:
            log.info("head of the audit log", head=str(head))
            self._audit_head = head

    async def refresh_rates(self) -> None:
        """Compute how fast pools empty, and when they will be empty."""
        began_s = time.monotonic()
        if began_s < self._rates_at:
            return
        await rates.refresh_rates(self._stores)
        ended_s = time.monotonic()
        self._rates_at = ended_s + rates.pause_s(ended_s - began_s)

    async def remove_consumers(self) -> None:
        for partition in range(self._stores.redis.partitions):
            keys = partition_keys(partition)
            await self._stores.redis.run(REMOVE_CONSUMERS, (keys.state, keys.stream), (GROUP, CONSUMER_IDLE_MS))


_NOT_IN_REDIS: Final = "SELECT id, revision FROM batches WHERE redis_revision < revision"

_HEARTBEAT: Final = f"""
WITH forgotten AS (DELETE FROM workers WHERE seen_at < now() - interval '{FORGET_WORKERS_AFTER}')
INSERT INTO workers (name, seen_at, detail) VALUES ($1, clock_timestamp(), $2)
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, detail = excluded.detail"""

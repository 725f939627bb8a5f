"""The exposition of the metrics by name, as GET /metrics shows them and the alert rules use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from issuer.contract.outcomes import Outcome
from issuer.http.metrics.hook_outcome import HookOutcome
from issuer.http.metrics.store_metrics import StoreMetrics
from issuer.http.metrics.tally import BOUNDS_S, OF_COUPON, OutcomeCounts
from issuer.http.slot_kinds import SlotKind, SlotRefusal
from issuer.storage.server_watch import Stop

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

INVALID: Final = "INVALID"
"""Outcome label of requests that were refused before Redis was called (400, 401, 403, 413, 429)."""

CRASH: Final = "CRASHED"
"""Outcome label of requests that failed with an internal error (500)."""

LIMITS: Final = (
    "key", "address", "failed_lookups_key", "failed_lookups_address", "failed_lookups_customer",
    "failed_lookups_public_key", "login_address", "login_mailbox",
)  # fmt: skip
"""Kinds of rate limits."""

NAMES: Final = {
    "issuer_redemptions_total": "Redeem requests and IssueCoupon calls, by outcome",
    "issuer_consumptions_total": "Coupon use requests, by outcome",
    "issuer_redeem_seconds": "Time to the response of a redeem, IssueCoupon or coupon use request",
    "issuer_rate_limited_total": "Requests refused by a rate limit, by kind of limit",
    "issuer_slots_refused_total": "Requests without a slot, by kind, and reason: all slots full, or the client's share",
    "issuer_hook_deliveries_total": "Deliveries of shops, by outcome; unsigned ones were refused",
    "issuer_pool_stock": "Codes of a pool that are not issued yet",
    "issuer_pool_in_redis": "Codes of a pool that are loaded into Redis and not issued yet",
    "issuer_backlog": "Redemptions of a partition that are not in the ledger yet",
    "issuer_worker_lag_seconds": "Age of the oldest event that is not in the ledger yet",
    "issuer_worker_lag_events": "Events that are not in the ledger yet",
    "issuer_worker_seen_seconds": "Time since the last heartbeat of any worker",
    "issuer_anomalies": "Contradictions between events and ledger; must be 0",
    "issuer_failed_rows": "Rows that a maintenance task of the worker could not process and skips",
    "issuer_dead_letters": "Unresolved dead letters: events that could not be recorded in the ledger",
    "issuer_quarantined": "Codes quarantined after a loss of Redis data and not released yet",
    "issuer_missing_registrations": "Processes of lost epochs whose answers are not known: codes are quarantined",
    "issuer_processes_without_journal": "API processes that write no receipt journal: a lost Redis would cost codes",
    "issuer_refused_void": "Events of lost epochs that were refused: no caller had received their codes",
    "issuer_audit_id": "Id of the newest entry of the audit log; it only rises",
    "issuer_role_may_change_ledger": "1 if the Postgres role of the API could change recorded redemptions; should be 0",
    "issuer_incident": "1 while an operator must decide, for example because Postgres went back; /readyz says what",
    "issuer_ready": "1 if the part is available, by part: redis, postgres",
    "issuer_stopped": "1 if this process issues nothing although Redis answers, by reason",
}
"""The help text of every metric."""


def render(counts: OutcomeCounts, store_metrics: StoreMetrics | None) -> bytes:
    """Return the text that Prometheus scrapes. Unknown values are left out instead of shown as 0."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FixedCollector([*_counted(counts), *_observed(store_metrics)]))
    return generate_latest(registry)


class _FixedCollector(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _counted(counts: OutcomeCounts) -> Iterator[Metric]:
    redemptions = CounterMetricFamily("issuer_redemptions", NAMES["issuer_redemptions_total"], labels=["outcome"])
    for outcome in [*Outcome, INVALID, CRASH]:
        redemptions.add_metric([outcome.lower()], counts.outcomes.get(str(outcome), 0))
    yield redemptions
    consumptions = CounterMetricFamily("issuer_consumptions", NAMES["issuer_consumptions_total"], labels=["outcome"])
    for outcome in [*Outcome, INVALID, CRASH]:
        consumptions.add_metric([outcome.lower()], counts.outcomes.get(OF_COUPON + outcome, 0))
    yield consumptions
    limited = CounterMetricFamily("issuer_rate_limited", NAMES["issuer_rate_limited_total"], labels=["limit"])
    for kind in LIMITS:
        limited.add_metric([kind], counts.limited.get(kind, 0))
    yield limited
    refused = CounterMetricFamily(
        "issuer_slots_refused", NAMES["issuer_slots_refused_total"], labels=["kind", "reason"]
    )
    for slot, reason in product(SlotKind, SlotRefusal):
        refused.add_metric([slot, reason], counts.slots.get(f"{slot} {reason}", 0))
    yield refused
    deliveries = CounterMetricFamily(
        "issuer_hook_deliveries", NAMES["issuer_hook_deliveries_total"], labels=["outcome"]
    )
    for delivered in HookOutcome:
        deliveries.add_metric([delivered], counts.deliveries.get(delivered, 0))
    yield deliveries
    seconds = HistogramMetricFamily("issuer_redeem_seconds", NAMES["issuer_redeem_seconds"])
    buckets, below = [], 0
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], counts.buckets, strict=True):
        below += count
        buckets.append((bound, float(below)))
    seconds.add_metric([], buckets, counts.seconds)
    yield seconds


def _gauge(name: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, NAMES[name], labels=list(labels))


def _observed(store_metrics: StoreMetrics | None) -> Iterator[Metric]:
    ready = _gauge("issuer_ready", ["part"])
    ready.add_metric(["redis"], float(store_metrics is not None and store_metrics.redis_serves))
    ready.add_metric(["postgres"], float(store_metrics is not None and store_metrics.postgres is not None))
    yield ready
    stopped = _gauge("issuer_stopped", ["reason"])
    for stop in Stop:
        stopped.add_metric([stop], float(store_metrics is not None and stop in store_metrics.stops))
    yield stopped
    if store_metrics is None:
        return
    if (redis := store_metrics.redis) is not None:
        backlog = _gauge("issuer_backlog", ["partition"])
        for partition, count in enumerate(redis.backlog):
            backlog.add_metric([str(partition)], count)
        yield backlog
        yield from _single(issuer_worker_lag_seconds=redis.lag_s, issuer_worker_lag_events=redis.lag_events)
    if (postgres := store_metrics.postgres) is not None:
        yield from _single(
            issuer_anomalies=postgres.anomalies,
            issuer_dead_letters=postgres.dead_letters,
            issuer_quarantined=postgres.quarantined,
            issuer_missing_registrations=postgres.missing_registrations,
            issuer_processes_without_journal=postgres.processes_without_journal,
            issuer_refused_void=postgres.refused_void,
            issuer_failed_rows=postgres.failed_rows,
            issuer_audit_id=postgres.audit_id,
            issuer_role_may_change_ledger=float(postgres.may_change_ledger),
            issuer_incident=float(postgres.incident is not None),
        )
        if postgres.workers:
            yield from _single(issuer_worker_seen_seconds=postgres.workers[0].seen_s_ago)
    yield from _pools(store_metrics)


def _pools(store_metrics: StoreMetrics) -> Iterator[Metric]:
    stock, in_redis = (
        _gauge("issuer_pool_stock", ["batch", "client"]),
        _gauge("issuer_pool_in_redis", ["batch", "client"]),
    )
    for pool in store_metrics.pools:
        labels = [pool.batch_id, pool.client_id]
        if pool.left is not None:
            stock.add_metric(labels, pool.left)
        if pool.in_redis is not None:
            in_redis.add_metric(labels, pool.in_redis)
    yield stock
    yield in_redis


def _single(**values: float) -> Iterator[Metric]:
    for name, value in values.items():
        gauge = _gauge(name)
        gauge.add_metric([], value)
        yield gauge

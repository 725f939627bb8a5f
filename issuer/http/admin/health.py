"""Whether this process lives, whether it can answer, and its figures: /livez, /readyz, /healthcheck, /metrics."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from issuer.http.fields import answer
from issuer.http.metrics.exposition import CONTENT_TYPE, render
from issuer.http.metrics.store_metrics import StoreMetrics
from issuer.http.operations import Access, Operation, RequestContext
from issuer.http.problems.problem import ProblemError
from issuer.instants import show_instant


async def get_livez(call: RequestContext) -> Response:
    """The event loop turns and the engine runs on it. Says nothing of Redis or Postgres."""
    if not call.services.engine.is_alive:
        raise ProblemError(500, "the engine has ended; restart this process", "internal_error")
    return answer({"status": "alive"})


async def get_readyz(call: RequestContext) -> Response:
    """200 if a redemption can be answered now. The worker is shown, not judged: redemptions go on without it."""
    store_metrics = await call.services.store_metrics()
    ready = call.services.engine.is_ready and call.services.engine.is_alive and store_metrics.redis_serves
    knows_keys = call.services.knows_keys
    content = {
        "status": "ready" if ready and knows_keys else "not ready",
        "redis": "ready" if ready else "not ready",
        "postgres": "ready" if store_metrics.postgres is not None else "not ready",
        "api_keys": "ready" if knows_keys else "not ready",
        "worker": show_workers(store_metrics),
    }
    return answer(content, 200 if ready and knows_keys else 503)


def show_workers(store_metrics: StoreMetrics) -> dict[str, Any]:
    """The worker that was seen last, and how far the ledger is behind. null: cannot be known now."""
    last = store_metrics.postgres.workers[0] if store_metrics.postgres and store_metrics.postgres.workers else None
    return {
        "seen_at": None if last is None else show_instant(last.seen_at),
        "seen_seconds_ago": None if last is None else round(last.seen_s_ago, 3),
        "lag_events": None if store_metrics.redis is None else store_metrics.redis.lag_events,
        "lag_seconds": None if store_metrics.redis is None else round(store_metrics.redis.lag_s, 3),
    }


async def get_healthcheck(call: RequestContext) -> Response:
    """For integrations that know this path: both stores must answer."""
    store_metrics = await call.services.store_metrics()
    serves = (("Redis", store_metrics.redis_serves), ("Postgres", store_metrics.postgres is not None))
    away = [name for name, does in serves if not does]
    if away or not call.services.engine.is_ready:
        message = f"{' and '.join(away)} cannot be used" if away else "Redis cannot be used"
        return answer({"status": "unhealthy", "message": message}, 500)
    return answer({"status": "healthy", "message": "System is operational"})


async def get_metrics(call: RequestContext) -> Response:
    store_metrics = await call.services.store_metrics(with_pools=True)
    return Response(render(call.services.tally.total(), store_metrics), media_type=CONTENT_TYPE)


OPERATIONS = (
    Operation("GET", "/livez", get_livez, Access.PUBLIC),
    Operation("GET", "/readyz", get_readyz, Access.PUBLIC),
    Operation("GET", "/healthcheck", get_healthcheck, Access.PUBLIC),
    # Stock by client is nobody's business but the operator's.
    Operation("GET", "/metrics", get_metrics, Access.OPERATOR),
)

"""Liveness, readiness and metrics: /livez, /readyz, /healthcheck, /metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import json_response
from issuer.http.metrics.exposition import CONTENT_TYPE, render
from issuer.http.metrics.store_metrics import StoreMetrics
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError
from issuer.instants import show_instant


async def get_livez(context: RequestContext) -> Response:
    """Report that the event loop and the redeem engine run. Redis and Postgres are not checked."""
    if not context.services.engine.is_alive:
        raise ProblemError(500, "the redeem engine has stopped; restart this process", "internal_error")
    return json_response({"status": "alive"})


async def get_readyz(context: RequestContext) -> Response:
    """Return 200 if a redemption can be answered now. The worker is shown, but not required."""
    store_metrics = await context.services.store_metrics()
    ready = context.services.engine.is_ready and context.services.engine.is_alive and store_metrics.redis_serves
    knows_keys = context.services.knows_keys
    content = {
        "status": "ready" if ready and knows_keys else "not ready",
        "redis": "ready" if ready else "not ready",
        "registration": context.services.registrar.trouble or "ready",
        "postgres": "ready" if store_metrics.postgres is not None else "not ready",
        "api_keys": "ready" if knows_keys else "not ready",
        "stops": sorted(context.services.stores.incarnations.watch.stops),
        "worker": show_workers(store_metrics),
        # Codes are issued meanwhile, so this is not a reason to take no requests.
        "incident": store_metrics.postgres.incident if store_metrics.postgres else None,
    }
    return json_response(content, 200 if ready and knows_keys else 503)


def show_workers(store_metrics: StoreMetrics) -> dict[str, Any]:
    """Return the most recent heartbeat of a worker and the lag of the ledger. None: unknown at present."""
    last = store_metrics.postgres.workers[0] if store_metrics.postgres and store_metrics.postgres.workers else None
    return {
        "seen_at": None if last is None else show_instant(last.seen_at),
        "seen_seconds_ago": None if last is None else round(last.seen_s_ago, 3),
        "lag_events": None if store_metrics.redis is None else store_metrics.redis.lag_events,
        "lag_seconds": None if store_metrics.redis is None else round(store_metrics.redis.lag_s, 3),
    }


async def get_healthcheck(context: RequestContext) -> Response:
    """Return 200 if both stores answer. Existing integrations call this path."""
    store_metrics = await context.services.store_metrics()
    serves = (("Redis", store_metrics.redis_serves), ("Postgres", store_metrics.postgres is not None))
    unavailable = [name for name, is_available in serves if not is_available]
    if unavailable or not context.services.engine.is_ready:
        message = f"{' and '.join(unavailable or ['Redis'])} cannot be used"
        return json_response({"status": "unhealthy", "message": message}, 500)
    return json_response({"status": "healthy", "message": "System is operational"})


async def get_metrics(context: RequestContext) -> Response:
    store_metrics = await context.services.store_metrics(with_pools=True)
    # In a thread: the series of 10,000 pools take a tenth of a second.
    content = await asyncio.to_thread(render, context.services.tally.total(), store_metrics)
    return Response(content, media_type=CONTENT_TYPE)


OPERATIONS = (
    Operation("GET", "/livez", get_livez, Access.PUBLIC, takes_slot=False),
    Operation("GET", "/readyz", get_readyz, Access.PUBLIC, takes_slot=False),
    Operation("GET", "/healthcheck", get_healthcheck, Access.PUBLIC, lenient=True, takes_slot=False),
    # The metrics show the stock of every client, so only the operator may read them.
    Operation("GET", "/metrics", get_metrics, Access.OPERATOR, takes_slot=False),
)

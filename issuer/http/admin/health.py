"""Whether this process lives, whether it can answer, and its figures: /livez, /readyz, /healthcheck, /metrics."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from issuer.http.fields import answer
from issuer.http.metrics.exposition import CONTENT_TYPE, render
from issuer.http.metrics.store_metrics import Vitals
from issuer.http.operations import Access, Call, Operation
from issuer.http.problems.problem import ProblemError
from issuer.instants import show_instant


async def get_livez(call: Call) -> Response:
    """The event loop turns and the engine runs on it. Says nothing of Redis or Postgres."""
    if not call.services.engine.is_alive:
        raise ProblemError(500, "the engine has ended; restart this process", "internal_error")
    return answer({"status": "alive"})


async def get_readyz(call: Call) -> Response:
    """200 if a redemption can be answered now. The worker is shown, not judged: redemptions go on without it."""
    vitals = await call.services.vitals()
    ready = call.services.engine.is_ready and call.services.engine.is_alive and vitals.redis_serves
    knows_keys = call.services.knows_keys
    content = {
        "status": "ready" if ready and knows_keys else "not ready",
        "redis": "ready" if ready else "not ready",
        "postgres": "ready" if vitals.postgres is not None else "not ready",
        "api_keys": "ready" if knows_keys else "not ready",
        "worker": show_workers(vitals),
    }
    return answer(content, 200 if ready and knows_keys else 503)


def show_workers(vitals: Vitals) -> dict[str, Any]:
    """The worker that was seen last, and how far the ledger is behind. null: cannot be known now."""
    last = vitals.postgres.workers[0] if vitals.postgres and vitals.postgres.workers else None
    return {
        "seen_at": None if last is None else show_instant(last.seen_at),
        "seen_seconds_ago": None if last is None else round(last.seen_s_ago, 3),
        "lag_events": None if vitals.redis is None else vitals.redis.lag_events,
        "lag_seconds": None if vitals.redis is None else round(vitals.redis.lag_s, 3),
    }


async def get_healthcheck(call: Call) -> Response:
    """For integrations that know this path: both stores must answer."""
    vitals = await call.services.vitals()
    serves = (("Redis", vitals.redis_serves), ("Postgres", vitals.postgres is not None))
    away = [name for name, does in serves if not does]
    if away or not call.services.engine.is_ready:
        message = f"{' and '.join(away)} cannot be used" if away else "Redis cannot be used"
        return answer({"status": "unhealthy", "message": message}, 500)
    return answer({"status": "healthy", "message": "System is operational"})


async def get_metrics(call: Call) -> Response:
    vitals = await call.services.vitals(with_pools=True)
    return Response(render(call.services.tally.total(), vitals), media_type=CONTENT_TYPE)


OPERATIONS = (
    Operation("GET", "/livez", get_livez, Access.PUBLIC),
    Operation("GET", "/readyz", get_readyz, Access.PUBLIC),
    Operation("GET", "/healthcheck", get_healthcheck, Access.PUBLIC),
    # Stock by client is nobody's business but the operator's.
    Operation("GET", "/metrics", get_metrics, Access.OPERATOR),
)

"""`issuer status`: what runs, and whether it can issue codes. A few small reads; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from issuer.recovery.inspection import PartitionState, inspect_partitions
from issuer.settings import Settings
from issuer.storage.database_identity import refuse_copy
from issuer.storage.migrate import SchemaError, check_schema
from issuer.storage.postgres import PostgresUnavailableError, close_pool, connect_pool, unavailable_translated
from issuer.storage.redis_link import Link, RedisUnavailableError

TIMEOUT_S: Final = 5.0

_INSTALLATION: Final = """
SELECT split_part(current_setting('server_version'), ' ', 1) AS version, i.run_id, i.epoch, i.partitions, i.max_backlog,
  i.incident,
  (SELECT blessed_at FROM incarnations WHERE epoch = i.epoch) AS blessed_at
FROM (SELECT) AS one LEFT JOIN installation i ON true"""

_OPEN: Final = """
SELECT count(*) FILTER (WHERE kind = 'codes' AND c.batch_id IS NULL) AS batches,
  count(*) FILTER (WHERE c.batch_id IS NOT NULL) AS campaigns, count(*) FILTER (WHERE kind = 'coupon') AS coupons
FROM batches LEFT JOIN campaigns c ON c.batch_id = batches.id
WHERE ended_at IS NULL AND (ends_at IS NULL OR ends_at > now())"""

# Each API process reports with each heartbeat, each worker once a second.
_API: Final = """
SELECT DISTINCT process FROM registrations
WHERE left_at IS NULL AND seen_at > clock_timestamp() - interval '15 s' ORDER BY process"""
_WORKERS: Final = "SELECT name FROM workers WHERE seen_at > clock_timestamp() - interval '15 s' ORDER BY name"


@dataclass(slots=True)
class Status:
    """What was found. None: unknown, because a store is unavailable. Without a problem codes are issued and recorded.

    `since`: when the Redis server was blessed. `open`: batches, campaigns and coupons that have not ended.
    """

    redis: str | None = None
    postgres: str | None = None
    since: datetime | None = None
    api_processes: Sequence[str] | None = None
    workers: Sequence[str] | None = None
    backlog: int | None = None
    max_backlog: int | None = None
    open: dict[str, int] | None = None
    problems: list[str] = field(default_factory=list)


async def read_status(settings: Settings) -> Status:
    """Return the status of the installation. An unavailable store is a problem of it and raises nothing."""
    status = Status()
    installation: Any = None
    try:
        async with unavailable_translated():
            installation = await _read_postgres(settings, status)
    except (PostgresUnavailableError, SchemaError, asyncpg.PostgresError) as error:
        status.problems.append(f"Postgres: {error}")
    link = Link(settings, None)
    try:
        await link.open()
        await _read_redis(link, installation, status)
    except RedisUnavailableError as error:
        status.problems.append(f"Redis: {error}")
    finally:
        await link.aclose()
    return status


async def _read_postgres(settings: Settings, status: Status) -> Any:
    pool = await connect_pool(settings, size=1, timeout_s=TIMEOUT_S)
    try:
        await check_schema(pool)
        await refuse_copy(pool)
        row: Any = await pool.fetchrow(_INSTALLATION)
        status.postgres, status.since, status.max_backlog = row["version"], row["blessed_at"], row["max_backlog"]
        opened: Any = await pool.fetchrow(_OPEN)
        status.open = dict(opened)
        if row["incident"]:
            status.problems.append(f"incident: {row['incident']}")
        status.api_processes = [process["process"] for process in await pool.fetch(_API)]
        status.workers = [name["name"] for name in await pool.fetch(_WORKERS)]
    finally:
        await close_pool(pool)
    if not status.api_processes:
        status.problems.append("no API process runs: start `issuer serve`")
    if not status.workers:
        status.problems.append("no worker runs: start `python -m sync_worker`, the backlog is bounded")
    return row


async def _read_redis(link: Link, installation: Any, status: Status) -> None:
    (info,) = await link.call([("INFO", "server")], timeout_s=TIMEOUT_S)
    if isinstance(info, bytes):
        facts = dict(line.partition(":")[::2] for line in info.decode().splitlines())
        status.redis = facts.get("valkey_version") or facts.get("redis_version")
    if installation is None or installation["partitions"] is None:
        return
    states: list[PartitionState] = await inspect_partitions(link, installation["partitions"])
    status.backlog = sum(int(state.get("backlog", 0)) for state in states)
    epoch = str(installation["epoch"])
    if installation["run_id"] != link.run_id or any(state.get("epoch") != epoch for state in states):
        status.problems.append("Redis: this server is not blessed; see `issuer recover --dry-run`")

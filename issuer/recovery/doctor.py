"""`issuer doctor`: checks of an installation, one line each, with advice where one fails."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from issuer.access.secrets import SecretKeyError, SecretKeys, count_unreadable
from issuer.recovery.inspection import (
    PartitionState,
    foreign_installations,
    inspect_partitions,
    inspect_pools,
    parse_info,
)
from issuer.registration.registrations import find_open
from issuer.settings import Settings
from issuer.storage.database_identity import CopiedDatabaseError, refuse_copy
from issuer.storage.failed_rows import count_failed_rows, list_failed_rows
from issuer.storage.grants import Process
from issuer.storage.migrate import SchemaError, check_schema
from issuer.storage.pooling import pooling_problem
from issuer.storage.postgres import (
    Pool,
    PoolConnection,
    PostgresUnavailableError,
    own_connection,
    unavailable_translated,
)
from issuer.storage.redis_link import Link, RedisUnavailableError, accepted, time_ms
from issuer.storage.roles import excess_rights, lacking_rights
from issuer.storage.server_watch import MAX_APART_MS, ClockReading

OLDEST_REDIS: Final = (7, 0)
CLOCK_STEP_S: Final = 5.0
HEARTBEAT_S: Final = 15.0


_NEWER: Final = """
SELECT string_agg(name, ', ') FROM workers
WHERE seen_at > clock_timestamp() - $1::float8 * interval '1 second' AND (detail ->> 'newer')::bigint > 0"""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `advice` says what to do when it is not `ok`."""

    name: str
    ok: bool
    found: str
    advice: str = ""


async def examine(settings: Settings, postgres: Pool) -> list[Check]:
    """Check everything that can be reached, and change nothing. An unreachable store is itself a failed check.

    `settings` are those of the processes; `postgres` may be connected with another role.
    """
    checks: list[Check] = []
    try:
        problem = await pooling_problem(settings)
        found = problem or "each connection is one session"
        checks.append(Check("postgres sessions", problem is None, found, "see docs/deployment.md, PgBouncer"))
        if problem is not None:
            return checks
        async with unavailable_translated():
            checks += [check async for check in _postgres(settings, postgres)]
    except PostgresUnavailableError as error:
        checks.append(Check("postgres", False, str(error), "start it, or correct ISSUER_DATABASE_URL"))
    checks += await examine_roles(settings)
    link = Link(settings, None)
    try:
        await link.open()
        checks += [check async for check in _redis(settings, link)]
        checks += [check async for check in _incarnation(settings, link, postgres)]
    except RedisUnavailableError as error:
        checks.append(Check("redis", False, str(error), "start it, or correct ISSUER_REDIS_URL"))
    except PostgresUnavailableError:
        pass  # the check "postgres" has failed already
    finally:
        await link.aclose()
    return checks


async def _postgres(settings: Settings, postgres: Pool) -> AsyncIterator[Check]:
    try:
        await check_schema(postgres)
        yield Check("migrations", True, "the schema fits this version")
    except SchemaError as error:
        yield Check("migrations", False, str(error), "run `issuer migrate`, or the newer version")
        return
    try:
        await refuse_copy(postgres)
        yield Check("database", True, "the one of this installation")
    except CopiedDatabaseError as error:
        yield Check("database", False, str(error), "see docs/operations.md, Incidents")
    row = await postgres.fetchrow("SELECT partitions, incident FROM installation")
    if row is not None:
        yield Check(
            "incident", row["incident"] is None, row["incident"] or "none", "decide; see docs/operations.md, Incidents"
        )
        yield Check(
            "partitions",
            row["partitions"] == settings.partitions,
            f"{row['partitions']} in the data, {settings.partitions} set",
            f"set ISSUER_PARTITIONS={row['partitions']}",
        )
    clock: datetime = await postgres.fetchval("SELECT clock_timestamp()")
    apart_s = abs((clock - datetime.now(UTC)).total_seconds())
    yield Check("postgres clock", apart_s < CLOCK_STEP_S, f"{apart_s:.1f} s from this host's", "run NTP on both")
    for table, where, advice in (
        ("anomalies", "true", "read them in the table anomalies; each may be a broken promise"),
        ("dead_letters", "resolved_at IS NULL", "see `issuer dead-letters list`"),
        ("quarantined", "released_at IS NULL", "see `issuer quarantine list`"),
    ):
        count = await postgres.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")
        yield Check(table.replace("_", " "), count == 0, f"{count}", advice)
    yield await _journals(settings, postgres)
    yield await _missing(postgres)
    failed = await list_failed_rows(postgres, limit=1)
    yield Check(
        "maintenance",
        not failed,
        f"{await count_failed_rows(postgres)} failed rows, such as {failed[0].task} {failed[0].row}: {failed[0].error}"
        if failed
        else "no failed rows",
        "the worker skips them: see `issuer maintenance list`, repair them, then run `issuer maintenance retry`",
    )
    yield await _secret_key(settings, postgres)
    seen = await postgres.fetchrow("SELECT name, now() - seen_at AS ago, detail FROM workers ORDER BY seen_at DESC")
    alive = seen is not None and seen["ago"].total_seconds() < HEARTBEAT_S
    found = "no worker has ever reported" if seen is None else f"last heartbeat {seen['ago'].total_seconds():.0f} s ago"
    yield Check("sync worker", alive, found, "start `python -m sync_worker`: the backlog is bounded")
    newer = await postgres.fetchval(_NEWER, HEARTBEAT_S)
    found = "none" if not newer else f"left in the stream by {newer}"
    yield Check("events of a later version", not newer, found, "start a worker of that version, stop the older ones")


_WITHOUT_JOURNAL: Final = """
SELECT r.process, r.host FROM registrations r, installation i
WHERE r.left_at IS NULL AND r.epoch = i.epoch AND NOT r.has_journal AND r.seen_at > now() - interval '15 s'"""


async def _journals(settings: Settings, postgres: Pool) -> Check:
    rows = await postgres.fetch(_WITHOUT_JOURNAL)
    found = ", ".join(f"{row['process']} on host {row['host']} writes none" for row in rows)
    return Check(
        "receipt journals",
        not rows or settings.journals is None,
        found or "written by every API process",
        "free or repair the disk of ISSUER_JOURNAL_DIR there and restart the process: a lost Redis would cost codes",
    )


_LOST: Final = "SELECT coalesce(max(lost_epoch), 0) FROM installation"


async def _missing(postgres: Pool) -> Check:
    missing = await find_open(postgres, 0, await postgres.fetchval(_LOST))
    return Check(
        "answers before the last loss",
        not missing,
        f"{len(missing)} not known, such as of {missing[0]}" if missing else "all known",
        "start the API on that host, or run `issuer journal replay` there: the quarantine ends when all are known;"
        " where the journal is lost, decide with `issuer quarantine release`",
    )


async def _secret_key(settings: Settings, postgres: Pool) -> Check:
    name, advice = "secret key", "add the key that encrypted them to ISSUER_SECRET_KEY"
    try:
        keys = None if settings.secret_key is None else SecretKeys.from_settings(settings)
        async with postgres.acquire() as connection:
            unreadable = await count_unreadable(connection, keys)
    except SecretKeyError as error:
        return Check(name, False, str(error), advice)
    except asyncpg.InsufficientPrivilegeError:
        # A role of a process that needs no stored secret.
        return Check(name, True, "not needed with this role")
    state = "not set" if keys is None else keys.current.hex()
    return Check(
        name, unreadable == 0, f"{unreadable} secrets cannot be read; {state}" if unreadable else state, advice
    )


async def examine_roles(settings: Settings) -> list[Check]:
    """Check the rights of the roles whose URLs are set, each on a connection of its own."""
    if settings.owner_database_url is not None and "database_url" not in settings.model_fields_set:
        return []
    chosen = [(Process.API, settings)]
    if settings.worker_database_url is not None:
        chosen.append((Process.WORKER, settings.as_worker()))
    return [await _role(process, own) for process, own in chosen]


async def _role(process: Process, settings: Settings) -> Check:
    name = f"postgres role of the {process}"
    try:
        async with unavailable_translated(), own_connection(settings, timeout_s=5.0) as connection:
            role = await connection.fetchval("SELECT current_user")
            if lacking := await lacking_rights(connection, process):
                return Check(name, False, f"{role} lacks: {', '.join(lacking)}", "run `issuer migrate` as the owner")
            excess = await excess_rights(connection)
    except (PostgresUnavailableError, asyncpg.PostgresError) as error:
        return Check(name, False, str(error), "correct ISSUER_DATABASE_URL or ISSUER_WORKER_DATABASE_URL")
    return Check(
        name,
        not excess,
        f"{role} {', '.join(excess)}" if excess else role,
        "more rights than needed: name the role of this process in its URL, and the owner in ISSUER_OWNER_DATABASE_URL",
    )


async def _config(link: Link, *names: str) -> dict[str, str]:
    replies = await link.call([("CONFIG", "GET", name) for name in names], timeout_s=5.0)
    return {
        name: reply[1].decode()
        for name, reply in zip(names, replies, strict=True)
        if not isinstance(reply, Exception) and len(reply) == 2
    }


async def _info(link: Link, section: str) -> dict[str, str]:
    (reply,) = await link.call([("INFO", section)], timeout_s=5.0)
    if isinstance(reply, Exception):
        return {}
    return parse_info(reply)


async def _redis(settings: Settings, link: Link) -> AsyncIterator[Check]:
    server = await _info(link, "server")
    text = server.get("redis_version", "0")
    number = tuple(int(part) for part in text.split(".")[:2])
    product = "Valkey" if "valkey_version" in server else "Redis"
    shown = f"{product} {server.get('valkey_version', text)}"
    yield Check("redis version", number >= OLDEST_REDIS, shown, "use Redis 7.0 or later, or Valkey")
    config = await _config(link, "appendonly", "appendfsync", "no-appendfsync-on-rewrite")
    memory = await _info(link, "memory")
    config["maxmemory-policy"] = memory.get("maxmemory_policy", "not readable")
    for name, wanted, why in (
        ("appendonly", "yes", "without it a restart loses all data"),
        ("appendfsync", "always", "everysec may lose the last seconds of redemptions"),
        ("no-appendfsync-on-rewrite", "no", "`yes` suspends syncing while the file is rewritten"),
        ("maxmemory-policy", "noeviction", "any other policy deletes codes and limits"),
    ):
        found = config.get(name, "not readable")
        yield Check(name, found == wanted, found, f"set {name} {wanted}: {why}")
    persistence = await _info(link, "persistence")
    written = persistence.get("aof_last_write_status", "ok")
    yield Check(
        "append-only file", written == "ok", written, "free or repair the disk: until then redemptions are refused"
    )
    replication = await _info(link, "replication")
    replicas = int(replication.get("connected_slaves", "0"))
    yield Check(
        "replicas",
        replicas >= settings.wait_replicas,
        f"{replicas} connected, {settings.wait_replicas} waited for",
        "connect more replicas, or lower ISSUER_WAIT_REPLICAS: redemptions are answered 503 `not replicated`",
    )
    role = replication.get("role", "?")
    yield Check("role", role == "master", role, "ISSUER_REDIS_URL must name the primary")
    apart_s = abs(await _time_ms(link) / 1000 - time.time())
    yield Check("redis clock", apart_s < CLOCK_STEP_S, f"{apart_s:.1f} s from this host's", "run NTP on both")


async def _time_ms(link: Link) -> int:
    (now,) = accepted(await link.call([("TIME",)], timeout_s=5.0))
    return time_ms(now)


async def _clocks(link: Link, connection: PoolConnection, states: Sequence[PartitionState]) -> AsyncIterator[Check]:
    """Compare the clocks by which codes are issued, whatever the time of this host is."""
    began_s = time.monotonic()
    redis_ms = await _time_ms(link)
    redis, began_s = ClockReading.of(redis_ms, began_s, time.monotonic()), time.monotonic()
    postgres_ms = await connection.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8")
    ahead_ms = redis.ahead_ms(ClockReading.of(postgres_ms, began_s, time.monotonic()))
    yield Check(
        "clocks of redis and postgres",
        abs(ahead_ms) <= MAX_APART_MS,
        f"{abs(ahead_ms) / 1000:.1f} s apart",
        "run NTP on both: nothing is issued while they are more than 5 s apart",
    )
    by_partition = [int(state.get("clock", 0)) - redis_ms for state in states]
    ahead = [ms for ms in by_partition if ms > MAX_APART_MS]
    yield Check(
        "clocks of the partitions",
        not ahead,
        f"{len(ahead)} of {len(states)} are up to {max(ahead) / 1000:.0f} s ahead of Redis'" if ahead else "not ahead",
        "limits and ends count from that time: once Redis' clock is right, run `issuer recover --clock`",
    )


async def _incarnation(settings: Settings, link: Link, postgres: Pool) -> AsyncIterator[Check]:
    async with unavailable_translated():
        row: Any = await postgres.fetchrow("SELECT id, run_id, epoch, partitions, max_backlog FROM installation")
    if row is None:
        yield Check("blessing", False, "this installation was never started", "start `issuer serve` or the worker")
        return
    yield Check(
        "blessing",
        row["run_id"] == link.run_id,
        f"epoch {row['epoch']}" if row["run_id"] == link.run_id else "this server is not the blessed one",
        "see `issuer recover --dry-run`",
    )
    states = await inspect_partitions(link, row["partitions"])
    others = foreign_installations(states, row["id"])
    yield Check(
        "installation",
        not others,
        f"Redis holds the data of {', '.join(others)}" if others else str(row["id"]),
        "correct ISSUER_REDIS_URL or ISSUER_DATABASE_URL: they belong to two installations",
    )
    wrong = [p for p, state in enumerate(states) if state.get("epoch") != str(row["epoch"])]
    yield Check("epoch of the partitions", not wrong, f"{len(states) - len(wrong)} of {len(states)} are current",
                "see `issuer recover --dry-run`")  # fmt: skip
    async with unavailable_translated(), postgres.acquire() as connection:
        async for check in _clocks(link, connection, states):
            yield check
        pools = await inspect_pools(link, connection, row["partitions"])
    gone = [pool for pool in pools if pool.opened and pool.issued_before is None]
    yield Check(
        "pools",
        not gone,
        f"Redis lacks {len(gone)} of {len(pools)}, such as pool {gone[0].pool_id}" if gone else f"{len(pools)}",
        "requests for them are answered `no code found`; keys were deleted: run `issuer recover --restored`",
    )
    fullest = max((int(state.get("backlog", 0)) for state in states), default=0)
    yield Check(
        "backlog",
        fullest < row["max_backlog"] / 2,
        f"{fullest} of {row['max_backlog']} redemptions in the fullest partition",
        "find out why the worker does not keep up; redemptions are answered 503 once it is full",
    )

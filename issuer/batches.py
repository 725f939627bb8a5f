"""Batches: made, changed, ended (never deleted), found and listed. Postgres decides, Redis follows at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson
import structlog

from issuer import audit
from issuer.instants import InvalidInstantError, in_utc, show_instant
from issuer.names import name_problem
from issuer.pages import Page, decode_cursor, encode_cursor
from issuer.postgres import Pool, PoolConnection, unavailable_translated
from issuer.redis_link import RedisUnavailableError
from issuer.revisions import push_batch as push_batch
from issuer.rules import NO_RULES, Rules, parse_rules
from issuer.stores import Stores

log = structlog.get_logger()


class BatchNotFoundError(LookupError):
    """There is no such batch, or none that the caller may know of."""


class BatchEndedError(Exception):
    """The batch was ended, and that is final."""


class BatchSharedError(Exception):
    """Other clients have codes in the batch: one of them alone cannot change it."""


class InvalidBatchError(ValueError):
    """Not a batch as it could be; the message says why."""


class Unset(Enum):
    """Leaves a value as it is, where None means to take it away."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as Postgres has it. Times are in UTC. Redis has seen all changes up to `redis_revision`."""

    id: UUID
    name: str
    rules: Rules
    starts_at: datetime | None
    ends_at: datetime | None
    paused: bool
    ended_at: datetime | None
    created_at: datetime
    revision: int
    redis_revision: int
    freed_at: datetime | None

    @property
    def expired(self) -> bool:
        """Whether it hands out nothing any more: ended, or past `ends_at`."""
        return self.ended_at is not None or (self.ends_at is not None and self.ends_at <= datetime.now(UTC))

    @property
    def in_redis(self) -> bool:
        return self.redis_revision >= self.revision

    def to_json(self) -> dict[str, Any]:
        """The batch as API and command line show it."""
        return {
            "id": str(self.id),
            "name": self.name,
            "rules": self.rules.to_json(),
            "starts_at": _shown(self.starts_at),
            "ends_at": _shown(self.ends_at),
            "paused": self.paused,
            "expired": self.expired,
            "ended_at": _shown(self.ended_at),
            "created_at": _shown(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class BatchChanges:
    """What to change of a batch; the default of each field changes nothing. `expired=True` ends it for good."""

    name: str | None = None
    rules: Rules | None = None
    starts_at: datetime | Unset | None = UNSET
    ends_at: datetime | Unset | None = UNSET
    paused: bool | None = None
    expired: bool | None = None


_MINE: Final = "EXISTS (SELECT FROM pools WHERE pools.batch_id = batches.id AND pools.client_id = $1)"
_OPEN: Final = "ended_at IS NULL AND (ends_at IS NULL OR ends_at > now())"


async def create_batch(
    stores: Stores,
    *,
    name: str,
    rules: Rules = NO_RULES,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    client_id: UUID | None = None,
    actor: str,
) -> Batch:
    """Makes a batch; with `client_id` it has an (empty) pool of that client, so that the client's keys see it.

    Raises InvalidBatchError and PostgresUnavailableError. If Redis is away the batch is made all the same and the
    worker brings it there later: `in_redis` tells.
    """
    name, starts_at, ends_at = _checked(name, starts_at, ends_at)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        batch = await _insert(connection, name, rules, starts_at, ends_at, actor)
        if client_id is not None:
            await connection.execute("INSERT INTO pools (batch_id, client_id) VALUES ($1, $2)", batch.id, client_id)
    return await _pushed(stores, batch)


async def find_or_create_batch(
    stores: Stores,
    *,
    name: str,
    rules: Rules = NO_RULES,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    actor: str,
) -> tuple[Batch, bool]:
    """The newest batch of that name that is not expired, as it is, or else a new one (True).

    Two who ask at the same time get the same one. Raises as `create_batch` does.
    """
    name, starts_at, ends_at = _checked(name, starts_at, ends_at)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 1554))", name)
        row = await connection.fetchrow(
            f"SELECT * FROM batches WHERE name = $1 AND {_OPEN} ORDER BY created_at DESC, id LIMIT 1", name
        )
        batch = _from_row(row) if row else await _insert(connection, name, rules, starts_at, ends_at, actor)
    return await _pushed(stores, batch), row is None


async def change_batch(
    stores: Stores, batch_id: UUID, changes: BatchChanges, *, client_id: UUID | None = None, actor: str
) -> Batch:
    """Changes a batch and returns it when Redis knows: the change counts from the next request on.

    What changes nothing is accepted, even for an ended batch. Raises BatchNotFoundError, BatchEndedError,
    BatchSharedError (for a caller bound to `client_id`), InvalidBatchError, PostgresUnavailableError. With
    RedisUnavailableError the change is made but does not count yet; the worker brings it to Redis.
    """
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        # Not FOR UPDATE: that would wait for every load that adds a pool.
        row = await connection.fetchrow("SELECT * FROM batches WHERE id = $1 FOR NO KEY UPDATE", batch_id)
        await _check_ownership(connection, batch_id, row is not None, client_id)
        assert row is not None
        batch = _from_row(row)
        changed = _changed_values(batch, changes)
        if changed:
            if batch.ended_at is not None:
                raise BatchEndedError("the batch was ended; that is final")
            batch = await _update(connection, batch, changed, actor)
    if not batch.in_redis:
        await push_batch(stores, batch_id)
        batch = await find_batch(stores.postgres, batch_id)
    return batch


async def find_batch(postgres: Pool, batch_id: UUID, *, client_id: UUID | None = None) -> Batch:
    """Raises BatchNotFoundError, also where `client_id` has no pool in it."""
    async with unavailable_translated():
        row = await postgres.fetchrow(
            f"SELECT * FROM batches WHERE id = $2 AND ($1::uuid IS NULL OR {_MINE})", client_id, batch_id
        )
    if row is None:
        raise BatchNotFoundError("no batch found")
    return _from_row(row)


async def find_open_batch_by_name(postgres: Pool, name: str, *, client_id: UUID | None = None) -> Batch | None:
    """The newest batch of that name that is not expired (and where `client_id` has a pool)."""
    async with unavailable_translated():
        row = await postgres.fetchrow(
            f"SELECT * FROM batches WHERE name = $2 AND {_OPEN} AND ($1::uuid IS NULL OR {_MINE})"
            " ORDER BY created_at DESC, id LIMIT 1",
            client_id, name,
        )  # fmt: skip
    return None if row is None else _from_row(row)


async def find_batches_by_name(postgres: Pool, name: str) -> list[Batch]:
    """Every batch of that name that was not ended, newest first."""
    async with unavailable_translated():
        rows = await postgres.fetch(
            "SELECT * FROM batches WHERE name = $1 AND ended_at IS NULL ORDER BY created_at DESC, id", name
        )
    return [_from_row(row) for row in rows]


async def open_batches(postgres: Pool, *, client_id: UUID | None = None) -> list[Batch]:
    """Every batch that is not expired, oldest first."""
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"SELECT * FROM batches WHERE {_OPEN} AND ($1::uuid IS NULL OR {_MINE}) ORDER BY created_at, id",
            client_id,
        )
    return [_from_row(row) for row in rows]


async def list_batches(
    postgres: Pool, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[Batch]:
    """All batches, expired ones too, newest first. Raises InvalidCursorError."""
    created_at, last_id = decode_cursor("batches", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"SELECT * FROM batches WHERE ($1::uuid IS NULL OR {_MINE})"
            " AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))"
            " ORDER BY created_at DESC, id DESC LIMIT $4",
            client_id, created_at, last_id, limit + 1,
        )  # fmt: skip
    batches = [_from_row(row) for row in rows]
    return Page.of(batches, limit, lambda last: encode_cursor("batches", (last.created_at, last.id)))


async def _pushed(stores: Stores, batch: Batch) -> Batch:
    """Brings a batch to Redis if it can be reached."""
    if batch.in_redis:
        return batch
    try:
        await push_batch(stores, batch.id)
    except RedisUnavailableError as error:
        log.warning("batch is not in Redis yet", batch_id=str(batch.id), error=str(error))
        return batch
    return await find_batch(stores.postgres, batch.id)


async def _insert(
    connection: PoolConnection,
    name: str,
    rules: Rules,
    starts_at: datetime | None,
    ends_at: datetime | None,
    actor: str,
) -> Batch:
    row = await connection.fetchrow(
        "INSERT INTO batches (id, name, rules, starts_at, ends_at)"
        " VALUES ($1, $2, $3::text::jsonb, $4, $5) RETURNING *",
        uuid4(), name, _json(rules), starts_at, ends_at,
    )  # fmt: skip
    assert row is not None
    batch = _from_row(row)
    detail = {"name": name, "rules": rules.to_json(), "starts_at": _shown(starts_at), "ends_at": _shown(ends_at)}
    await audit.record(connection, actor=actor, action="batch.create", subject=f"batch:{batch.id}", detail=detail)
    return batch


async def _check_ownership(connection: PoolConnection, batch_id: UUID, exists: bool, client_id: UUID | None) -> None:
    if not exists:
        raise BatchNotFoundError("no batch found")
    if client_id is None:
        return
    clients = await connection.fetchrow(
        "SELECT bool_or(client_id = $2) AS mine, bool_or(client_id <> $2) AS shared FROM pools WHERE batch_id = $1",
        batch_id, client_id,
    )  # fmt: skip
    if clients is None or not clients["mine"]:
        raise BatchNotFoundError("no batch found")
    if clients["shared"]:
        raise BatchSharedError("other clients have codes in this batch")


def _changed_values(batch: Batch, changes: BatchChanges) -> dict[str, Any]:
    """The columns that the changes make different, checked as a whole."""
    if changes.expired is False and batch.expired:
        raise (
            InvalidBatchError("expired: to open it again, change ends_at")
            if batch.ended_at is None
            else BatchEndedError("the batch was ended; that is final")
        )
    name, starts_at, ends_at = _checked(
        batch.name if changes.name is None else changes.name,
        batch.starts_at if isinstance(changes.starts_at, Unset) else changes.starts_at,
        batch.ends_at if isinstance(changes.ends_at, Unset) else changes.ends_at,
    )
    wanted: dict[str, Any] = {"name": name, "starts_at": starts_at, "ends_at": ends_at}
    if changes.rules is not None:
        wanted["rules"] = changes.rules
    if changes.paused is not None:
        wanted["paused"] = changes.paused
    changed = {column: value for column, value in wanted.items() if value != getattr(batch, column)}
    if changes.expired and batch.ended_at is None:
        changed["ended_at"] = datetime.now(UTC)
    return changed


async def _update(connection: PoolConnection, batch: Batch, changed: dict[str, Any], actor: str) -> Batch:
    """Writes the changed columns. Redis does not know names, so a new one needs no new revision."""
    for_redis = set(changed) - {"name"}
    new_limits = "rules" in changed and changed["rules"].packed() != batch.rules.packed()
    values = {column: _json(value) if column == "rules" else value for column, value in changed.items()}
    assignments = [
        f"{column} = ${place}" + ("::text::jsonb" if column == "rules" else "")
        for place, column in enumerate(values, start=2)
    ]
    if for_redis:
        assignments.append("revision = revision + 1")
    if new_limits:
        assignments.append("rules_revision = revision + 1")
    row = await connection.fetchrow(
        f"UPDATE batches SET {', '.join(assignments)} WHERE id = $1 RETURNING *", batch.id, *values.values()
    )
    assert row is not None
    detail = {
        column: {"from": _shown(getattr(batch, column)), "to": _shown(value)} for column, value in changed.items()
    }
    action = "batch.end" if "ended_at" in changed else "batch.change"
    await audit.record(connection, actor=actor, action=action, subject=f"batch:{batch.id}", detail=detail)
    return _from_row(row)


def _checked(
    name: str, starts_at: datetime | None, ends_at: datetime | None
) -> tuple[str, datetime | None, datetime | None]:
    problem = name_problem(name)
    if problem:
        raise InvalidBatchError(problem)
    times: list[datetime | None] = []
    for field, value in (("starts_at", starts_at), ("ends_at", ends_at)):
        try:
            times.append(None if value is None else in_utc(value))
        except InvalidInstantError as error:
            raise InvalidBatchError(f"{field}: {error}") from error
    if times[0] is not None and times[1] is not None and times[1] <= times[0]:
        raise InvalidBatchError("ends_at must be later than starts_at")
    return name, times[0], times[1]


def _json(rules: Rules) -> str:
    return orjson.dumps(rules.to_json()).decode()


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return show_instant(value)
    return value.to_json() if isinstance(value, Rules) else value


def _from_row(row: asyncpg.Record) -> Batch:
    return Batch(
        id=UUID(bytes=row["id"].bytes),
        name=row["name"],
        rules=parse_rules(orjson.loads(row["rules"])),
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        paused=row["paused"],
        ended_at=row["ended_at"],
        created_at=row["created_at"],
        revision=row["revision"],
        redis_revision=row["redis_revision"],
        freed_at=row["freed_at"],
    )

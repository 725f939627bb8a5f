"""Create, change, end, find and list batches. They are never deleted. Postgres decides; Redis is updated at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog

from issuer.access import audit
from issuer.batches.batch import (
    BATCHES,
    NOT_CAMPAIGN,
    OF_CLIENT,
    OPEN,
    NewBatch,
    Unset,
    batch_from_row,
    change_detail,
    check_values,
    find_changed_values,
    show_value,
)
from issuer.batches.batch import UNSET as UNSET
from issuer.batches.batch import Batch as Batch
from issuer.batches.batch import BatchChanges as BatchChanges
from issuer.batches.batch import BatchEndedError as BatchEndedError
from issuer.batches.batch import BatchIdTakenError as BatchIdTakenError
from issuer.batches.batch import BatchNotFoundError as BatchNotFoundError
from issuer.batches.batch import BatchSharedError as BatchSharedError
from issuer.batches.batch import InvalidBatchError as InvalidBatchError
from issuer.batches.named import find_open_by_name
from issuer.batches.placing import place_batch
from issuer.batches.revisions import push_batch as push_batch
from issuer.clients.quotas import check_quotas
from issuer.paging import CHUNK_SIZE, Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

_INSERT: Final = """
INSERT INTO batches (id, partition, name, rules, starts_at, ends_at)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6)
ON CONFLICT (id) DO NOTHING RETURNING paused, ended_at, created_at, revision, redis_revision, freed_at"""


async def create_batch(
    stores: Stores, new: NewBatch, *, client_id: UUID | None = None, actor: str, act: Act[Batch] = UNKEPT
) -> Batch:
    """Create a batch. With `client_id` it gets an empty pool of that client, so that the client's keys can see it.

    Raises InvalidBatchError, BatchIdTakenError, QuotaExceededError and PostgresUnavailableError. If Redis is
    unavailable the batch is created all the same and the worker pushes it later; `in_redis` shows which.
    """
    async with act.transaction(stores.postgres) as connection:
        batch = await create_batch_in(connection, new, actor)
        if client_id is not None:
            await connection.execute("INSERT INTO pools (batch_id, client_id) VALUES ($1, $2)", batch.id, client_id)
            await check_quotas(connection, [client_id])
        await act.keep(connection, batch)
    return await _try_push(stores, batch)


async def create_batch_in(connection: AnyConnection, new: NewBatch, actor: str) -> Batch:
    """Create a batch in the caller's transaction; the caller pushes it. Raises InvalidBatchError, BatchIdTakenError."""
    name, starts_at, ends_at = check_values(new.name, new.starts_at, new.ends_at)
    batch_id, partition = await place_batch(connection, new.id)
    row = await connection.fetchrow(_INSERT, batch_id, partition, name, new.rules.to_text(), starts_at, ends_at)
    if row is None:
        raise BatchIdTakenError("the id is taken")
    batch = Batch(batch_id, name, new.rules, starts_at, ends_at, **dict(row))
    detail = {
        "name": name,
        "rules": new.rules.to_json(),
        "starts_at": show_value(starts_at),
        "ends_at": show_value(ends_at),
    }
    await audit.record(connection, actor=actor, action="batch.create", subject=f"batch:{batch.id}", detail=detail)
    return batch


async def find_or_create_batch(stores: Stores, new: NewBatch, *, actor: str) -> tuple[Batch, bool]:
    """Return the newest batch of that name that is not expired, unchanged, or else a new one (True).

    Concurrent calls return the same batch. Raises what `create_batch` raises.
    """
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        batch = found = await find_open_by_name(connection, new.name)
        if batch is None:
            batch = await create_batch_in(connection, new, actor)
    return await _try_push(stores, batch), found is None


async def change_batch(
    stores: Stores,
    batch_id: UUID,
    changes: BatchChanges,
    *,
    client_id: UUID | None = None,
    of_campaign: bool = False,
    actor: str,
) -> Batch:
    """Change a batch. Return it when Redis has the change, which then counts from the next request on.

    A call that changes nothing is accepted, even for an ended batch. Raises BatchNotFoundError, BatchEndedError,
    BatchSharedError (for a caller bound to `client_id`), InvalidBatchError (also for the start of a campaign, unless
    `of_campaign`: that is never absent, and a whole ms), QuotaExceededError (for one that would be open again),
    PostgresUnavailableError. On RedisUnavailableError the change is stored but does not count yet; the worker pushes
    it to Redis.
    """
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        # Not FOR UPDATE: that would wait for every load that adds a pool.
        row = await connection.fetchrow(f"{BATCHES} AND id = $1 FOR NO KEY UPDATE", batch_id)
        if row is None:
            raise BatchNotFoundError("no batch found")
        if client_id is not None:
            await check_sole_owner(connection, batch_id, client_id)
        if not of_campaign and not isinstance(changes.starts_at, Unset):
            await _refuse_start_of_campaign(connection, batch_id)
        batch = batch_from_row(row)
        changed = find_changed_values(batch, changes)
        if changed:
            if batch.ended_at is not None:
                raise BatchEndedError("the batch was ended; that is final")
            was_over = batch.expired
            batch = await _update(connection, batch, changed, actor)
            if was_over and not batch.expired:
                owners = await connection.fetch("SELECT client_id FROM pools WHERE batch_id = $1", batch_id)
                await check_quotas(connection, [row["client_id"] for row in owners])
    if batch.in_redis:
        return batch
    await push_batch(stores, batch_id)
    return replace(batch, redis_revision=batch.revision)


async def find_batch(postgres: Pool, batch_id: UUID, *, client_id: UUID | None = None) -> Batch:
    """Return a batch. Raises BatchNotFoundError, also if `client_id` has no pool in it."""
    async with unavailable_translated():
        row = await postgres.fetchrow(
            f"{BATCHES} AND id = $2 AND ($1::uuid IS NULL OR {OF_CLIENT})", client_id, batch_id
        )
    if row is None:
        raise BatchNotFoundError("no batch found")
    return batch_from_row(row)


async def check_batch_open(postgres: Pool, batch_id: UUID) -> None:
    """Raise BatchNotFoundError, or BatchEndedError if no codes can be added any more."""
    async with unavailable_translated():
        is_open = await postgres.fetchval(f"SELECT {OPEN} FROM batches WHERE kind = 'codes' AND id = $1", batch_id)
    if is_open is None:
        raise BatchNotFoundError("no batch found")
    if not is_open:
        raise BatchEndedError("the batch has ended: no codes can be added")


async def open_batches(postgres: Pool, *, client_id: UUID | None = None) -> AsyncGenerator[list[Batch]]:
    """Yield every batch that is not expired, oldest first, in chunks; campaigns are not included."""
    created_at, last_id = None, None
    while True:
        async with unavailable_translated():
            rows = await postgres.fetch(
                f"{BATCHES} AND {NOT_CAMPAIGN} AND {OPEN} AND ($1::uuid IS NULL OR {OF_CLIENT})"
                " AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3::uuid))"
                " ORDER BY created_at, id LIMIT $4",
                client_id, created_at, last_id, CHUNK_SIZE,
            )  # fmt: skip
        if rows:
            yield [batch_from_row(row) for row in rows]
        if len(rows) < CHUNK_SIZE:
            return
        created_at, last_id = rows[-1]["created_at"], rows[-1]["id"]


async def list_batches(
    postgres: Pool, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[Batch]:
    """Return one page of all batches, expired ones too, newest first; campaigns are not included.

    Raises InvalidCursorError.
    """
    created_at, last_id = decode_cursor("batches", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{BATCHES} AND {NOT_CAMPAIGN} AND ($1::uuid IS NULL OR {OF_CLIENT})"
            " AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))"
            " ORDER BY created_at DESC, id DESC LIMIT $4",
            client_id, created_at, last_id, limit + 1,
        )  # fmt: skip
    batches = [batch_from_row(row) for row in rows]
    return Page.of(batches, limit, lambda last: encode_cursor("batches", (last.created_at, last.id)))


async def _try_push(stores: Stores, batch: Batch) -> Batch:
    """Push a batch to Redis if Redis is available."""
    if batch.in_redis:
        return batch
    try:
        await push_batch(stores, batch.id)
    except RedisUnavailableError as error:
        log.warning(
            "batch created but not pushed to Redis; the worker retries", batch_id=str(batch.id), error=str(error)
        )
        return batch
    return replace(batch, redis_revision=batch.revision)


async def check_sole_owner(postgres: Pool | AnyConnection, batch_id: UUID, client_id: UUID) -> None:
    """Raise BatchNotFoundError if the client has no pool in the batch, BatchSharedError if another one has."""
    async with unavailable_translated():
        clients = await postgres.fetchrow(
            "SELECT bool_or(client_id = $2) AS mine, bool_or(client_id <> $2) AS shared FROM pools WHERE batch_id = $1",
            batch_id, client_id,
        )  # fmt: skip
    if clients is None or not clients["mine"]:
        raise BatchNotFoundError("no batch found")
    if clients["shared"]:
        raise BatchSharedError("other clients have codes in this batch")


async def _refuse_start_of_campaign(connection: AnyConnection, batch_id: UUID) -> None:
    if await connection.fetchval("SELECT EXISTS (SELECT FROM campaigns WHERE batch_id = $1)", batch_id):
        raise InvalidBatchError("starts_at of a campaign is changed with the campaign")


async def _update(connection: AnyConnection, batch: Batch, changed: dict[str, Any], actor: str) -> Batch:
    """Write the changed columns. Redis does not store names, so a new name needs no new revision."""
    for_redis = set(changed) - {"name"}
    new_limits = "rules" in changed and changed["rules"].packed() != batch.rules.packed()
    values = {column: value.to_text() if column == "rules" else value for column, value in changed.items()}
    assignments = [
        f"{column} = ${place}" + ("::text::jsonb" if column == "rules" else "")
        for place, column in enumerate(values, start=2)
    ]
    if for_redis:
        assignments.append("revision = revision + 1")
    if new_limits:
        assignments.append("rules_revision = revision + 1")
    revision = await connection.fetchval(
        f"UPDATE batches SET {', '.join(assignments)} WHERE id = $1 RETURNING revision", batch.id, *values.values()
    )
    action, detail = "batch.end" if "ended_at" in changed else "batch.change", change_detail(batch, changed)
    await audit.record(connection, actor=actor, action=action, subject=f"batch:{batch.id}", detail=detail)
    return replace(batch, **changed, revision=revision)

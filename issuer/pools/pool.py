"""A pool as Postgres has it, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.storage.postgres import FILE_TIMEOUT_S, SEQ_LOCK, AnyConnection, lock_of, unavailable_translated
from issuer.storage.stores import Stores


class PoolError(Exception):
    """The pool cannot be loaded in its present state. Nothing was lost or skipped."""


class PoolNotFoundError(PoolError):
    """No pool has this id."""


class PoolClosedError(PoolError):
    """The batch has ended: no more of its codes are loaded into Redis."""


class BatchNotInRedisError(PoolError):
    """Redis does not have the batch (yet): push its revision, then load again."""


class PoolLostError(PoolError):
    """The pool was opened before and is missing in Redis: a recovery has to rebuild it, a load cannot."""


class CodesMissingError(PoolError):
    """Postgres lacks codes between the last one loaded and the pool's total: an operator has to find out why."""


class PoolChangedError(Exception):
    """The codes of a pool were changed without the locks that are required for it."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A row of the table of pools.

    `opened`: the pool's hash was created in Redis. `loaded` is a hint for top-ups: only Redis has the exact value.
    """

    id: int
    batch_id: UUID
    client_id: UUID
    total: int
    opened: bool
    loaded: int
    of_coupon: bool


POOL_SELECT: Final = """
SELECT p.id, p.batch_id, p.client_id, p.total, p.opened, p.loaded, b.kind = 'coupon' AS of_coupon
FROM pools p JOIN batches b ON b.id = p.batch_id"""
"""Selects the fields of `Pool`; pools are `p`, their batches `b`."""


async def find_pool(stores: Stores, pool_id: int) -> Pool:
    """Return the pool. Raises PoolNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await stores.postgres.fetchrow(f"{POOL_SELECT} WHERE p.id = $1", pool_id)
    if row is None:
        raise PoolNotFoundError(f"no pool {pool_id}")
    return Pool(**row)


_LOCK_SEQS: Final = """
SELECT pg_advisory_xact_lock($1, number) FROM (SELECT unnest($2::int[]) AS number ORDER BY number) AS sorted"""


async def lock_seqs(connection: AnyConnection, *batch_ids: UUID) -> None:
    """Keep every other caller from assigning seqs in the batches until the transaction ends.

    A transaction that adds codes takes the lock before it reads a pool's total and holds it until it has raised that
    total. The pool's row is not locked: a pool can be opened and topped up while a million codes are inserted.
    """
    numbers = [lock_of(SEQ_LOCK, batch_id)[1] for batch_id in batch_ids]
    await connection.execute(_LOCK_SEQS, SEQ_LOCK, numbers, timeout=FILE_TIMEOUT_S)


# A row, not an advisory lock: Postgres has room for some thousand advisory locks, and one file may have more clients.
# Sorted in both statements, so that two transactions never wait for each other.
_ADD_CLIENTS: Final = """
INSERT INTO client_locks SELECT client_id FROM unnest($1::uuid[]) AS client_id ORDER BY client_id
ON CONFLICT DO NOTHING"""
_LOCK_CLIENTS: Final = "SELECT FROM client_locks WHERE client_id = ANY ($1) ORDER BY client_id FOR NO KEY UPDATE"


async def lock_clients(connection: AnyConnection, clients: Sequence[UUID]) -> None:
    """Keep every other caller from adding codes of these clients until the transaction ends.

    A client has a code once. So a transaction that adds codes takes the lock, after that of the batch and before it
    looks which of them are new. Codes of different clients are added at the same time.
    """
    await connection.execute(_ADD_CLIENTS, clients, timeout=FILE_TIMEOUT_S)
    await connection.execute(_LOCK_CLIENTS, clients, timeout=FILE_TIMEOUT_S)

"""Find batches by the name that people gave them. Campaigns are not found: they are listed and used separately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from issuer.batches.batch import (
    BATCHES,
    NOT_CAMPAIGN,
    OF_CLIENT,
    OPEN,
    Batch,
    BatchNotFoundError,
    batch_from_row,
    check_name,
)
from issuer.storage.postgres import BATCH_NAME_LOCK, AnyConnection, Pool, unavailable_translated

MAX_NAMED: Final = 20
"""Batches of one name that are shown to a caller that has to choose."""

_NAMED: Final = f"""
{BATCHES} AND {NOT_CAMPAIGN} AND name = $2 AND ($1::uuid IS NULL OR {OF_CLIENT})
ORDER BY ({OPEN}) DESC, ended_at IS NULL DESC, created_at DESC, id LIMIT $3"""


class AmbiguousNameError(LookupError):
    """Several open batches have the name. `ids`: those of the newest ones; `batches`: these, if they were read."""

    def __init__(self, name: str, ids: Sequence[UUID], batches: Sequence[Batch] = ()) -> None:
        super().__init__("several batches have this name")
        self.name = name
        self.ids = [str(batch_id) for batch_id in ids]
        self.batches = batches


async def find_named_batch(postgres: Pool, name: str, *, client_id: UUID | None = None) -> Batch:
    """Return the open batch of that name; if there is none, the newest one that was not ended, else the newest one.

    With `client_id` only batches count in which that client has a pool. Raises BatchNotFoundError, AmbiguousNameError.
    """
    async with unavailable_translated():
        rows = await postgres.fetch(_NAMED, client_id, name, MAX_NAMED)
    batches = [batch_from_row(row) for row in rows]
    still_open = [batch for batch in batches if not batch.expired]
    if len(still_open) > 1:
        raise AmbiguousNameError(name, [batch.id for batch in still_open], still_open)
    if not batches:
        raise BatchNotFoundError("no batch found")
    return batches[0]


async def find_open_by_name(connection: AnyConnection, name: str) -> Batch | None:
    """Return the newest batch of that name that is not expired. Until the transaction ends, no other call that asks
    for the name creates one."""
    check_name(name)
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", BATCH_NAME_LOCK, name)
    row = await connection.fetchrow(_NAMED, None, name, 1)
    batch = batch_from_row(row) if row else None
    return None if batch is None or batch.expired else batch

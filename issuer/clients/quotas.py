"""Quotas: how many codes, and how many batches, a client may have at the same time.

They count what is open: batches, campaigns and their codes, issued or not, until the batch has ended; and the codes of
generation jobs that are not finished. Whatever adds some checks them at the end of its transaction, with the row of the
quotas locked, so that two loads at the same time exceed them no more than one after the other. A client without quotas
costs one look-up in a primary key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final
from uuid import UUID

from issuer.access import audit
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

MAX_QUOTA: Final = 10**12


class QuotaExceededError(Exception):
    """The client would have more than its quota allows. Nothing was changed."""

    def __init__(self, quota: str, limit: int, used: int) -> None:
        super().__init__(
            f"the quota of the client is {limit:,} {quota}, and with this there would be {used:,}; "
            "end a batch, or have the quota raised"
        )
        self.quota, self.limit, self.used = quota, limit, used


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of a client; None: without one."""

    codes: int | None = None
    batches: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """The limits of a client, and what counts against them now."""

    limits: Quotas
    used: Quotas

    def to_json(self) -> dict[str, Any]:
        """Return them as the API shows them."""
        limits, used = asdict(self.limits), asdict(self.used)
        return {name: {"limit": limits[name], "used": used[name]} for name in limits}


_OPEN: Final = "b.kind = 'codes' AND b.ended_at IS NULL AND (b.ends_at IS NULL OR b.ends_at > now())"
_USED: Final = f"""
SELECT count(*) AS batches, coalesce(sum(p.total), 0)::bigint
  + (SELECT coalesce(sum(j.count - j.made), 0) FROM generation_jobs j JOIN batches b ON b.id = j.batch_id
     WHERE j.client_id = $1 AND j.finished_at IS NULL AND {_OPEN})::bigint AS codes
FROM pools p JOIN batches b ON b.id = p.batch_id WHERE p.client_id = $1 AND {_OPEN}"""
_LIMITS: Final = "SELECT codes, batches FROM client_quotas WHERE client_id = $1"
# In one order, so that two loads of the same clients never wait for each other.
_LOCK: Final = """
SELECT client_id, codes, batches FROM client_quotas WHERE client_id = ANY ($1) ORDER BY client_id FOR UPDATE"""
_ADD: Final = "INSERT INTO client_quotas (client_id) VALUES ($1) ON CONFLICT DO NOTHING"
_SET: Final = "UPDATE client_quotas SET codes = $2, batches = $3 WHERE client_id = $1"


async def read_quotas(connection: Pool | AnyConnection, client_id: UUID) -> QuotaUse:
    """Return the quotas of a client, which has none if they were never set. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        limits = await connection.fetchrow(_LIMITS, client_id)
        used = await connection.fetchrow(_USED, client_id)
    assert used is not None
    return QuotaUse(Quotas() if limits is None else Quotas(**dict(limits)), Quotas(used["codes"], used["batches"]))


async def change_quotas(
    postgres: Pool, client_id: UUID, changes: Mapping[str, int | None], *, actor: str, act: Act[QuotaUse] = UNKEPT
) -> QuotaUse:
    """Set the quotas that are named, by their fields in `Quotas`; the others stay.

    Lower ones than what the client has take nothing away. Raises PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        await connection.execute(_ADD, client_id)
        before = await connection.fetchrow(f"{_LIMITS} FOR UPDATE", client_id)
        assert before is not None
        old = Quotas(**dict(before))
        quotas = replace(old, **changes)
        if old != quotas:
            await connection.execute(_SET, client_id, quotas.codes, quotas.batches)
            detail = {"quotas": {"from": asdict(old), "to": asdict(quotas)}}
            await audit.record(
                connection, actor=actor, action="client.quotas", subject=f"client:{client_id}", detail=detail
            )
        found = await read_quotas(connection, client_id)
        await act.keep(connection, found)
    return found


async def check_quotas(connection: AnyConnection, client_ids: Sequence[UUID]) -> None:
    """Raise QuotaExceededError if one of the clients has more than its quotas allow, in the caller's transaction."""
    for row in await connection.fetch(_LOCK, client_ids):
        used = await connection.fetchrow(_USED, row["client_id"])
        assert used is not None
        for quota in ("codes", "batches"):
            limit = row[quota]
            if limit is not None and used[quota] > limit:
                raise QuotaExceededError(quota, limit, used[quota])

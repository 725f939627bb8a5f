"""The recoveries of an installation: what each found, and what of it is still open. Read from Postgres alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from issuer.access import audit
from issuer.instants import show_instant
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.recovery.release import QuarantinedRange, list_quarantined
from issuer.registration.registrations import OpenRegistration, find_open
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import Pool, unavailable_translated

MAX_POOLS: Final = 1_000
"""Pools that one recovery shows: those of which it quarantined most."""


class RecoveryNotFoundError(LookupError):
    """No recovery began this epoch."""


@dataclass(frozen=True, slots=True)
class PastRecovery:
    """A recovery. `held` of the codes that it quarantined are still out of stock, `released` are in stock again.

    `accepted_at`, `accepted_by`: an operator has accepted that the held codes stay out of stock.
    """

    epoch: int
    verdict: str
    at: datetime
    reasons: Sequence[str]
    drained: int
    missing: Sequence[str]
    held: int
    released: int
    accepted_at: datetime | None
    accepted_by: str | None

    @property
    def is_open(self) -> bool:
        """Whether an operator has something to decide."""
        return self.held > 0 and self.accepted_at is None

    def to_json(self) -> dict[str, Any]:
        accepted_at = None if self.accepted_at is None else show_instant(self.accepted_at)
        return asdict(self) | {"at": show_instant(self.at), "accepted_at": accepted_at}


@dataclass(frozen=True, slots=True)
class RecoveryDetail:
    """A recovery with what is open: `waits_for` are the processes whose answers are not known."""

    recovery: PastRecovery
    waits_for: Sequence[OpenRegistration]
    pools: Sequence[QuarantinedRange]

    def to_json(self) -> dict[str, Any]:
        waits_for = [asdict(found) for found in self.waits_for]
        return self.recovery.to_json() | {"waits_for": waits_for, "pools": [_show_pool(pool) for pool in self.pools]}


_PAGE: Final = """
SELECT epoch, verdict, blessed_at, report, accepted_at, accepted_by FROM incarnations
WHERE shard = 0 AND ($1::bigint IS NULL OR epoch < $1) ORDER BY epoch DESC LIMIT $2"""
_ONE: Final = """
SELECT epoch, verdict, blessed_at, report, accepted_at, accepted_by FROM incarnations
WHERE shard = 0 AND epoch = $1"""
_ACCEPT: Final = """
UPDATE incarnations SET accepted_at = coalesce(accepted_at, now()), accepted_by = coalesce(accepted_by, $2)
WHERE shard = 0 AND epoch = $1 RETURNING verdict"""
_QUARANTINED: Final = """
SELECT epoch, count(*) FILTER (WHERE released_at IS NULL) AS held, count(released_at) AS released
FROM quarantined WHERE epoch = ANY ($1) GROUP BY epoch"""
_LOST: Final = """
SELECT min(lost_after) AS after, max(lost_to) AS up_to FROM quarantined
WHERE epoch = $1 AND released_at IS NULL AND lost_to IS NOT NULL"""


async def list_recoveries(postgres: Pool, *, limit: int = 100, cursor: str | None = None) -> Page[PastRecovery]:
    """Return one page of all recoveries, newest first. Raises InvalidCursorError, PostgresUnavailableError."""
    (before,) = decode_cursor("recoveries", cursor, (int,)) if cursor else (None,)
    async with unavailable_translated():
        rows = await postgres.fetch(_PAGE, before, limit + 1)
        found = await postgres.fetch(_QUARANTINED, [row["epoch"] for row in rows])
    counts = {row["epoch"]: row for row in found}
    recoveries = [_recovery(row, counts.get(row["epoch"])) for row in rows]
    return Page.of(recoveries, limit, lambda last: encode_cursor("recoveries", (last.epoch,)))


async def find_recovery(postgres: Pool, epoch: int) -> RecoveryDetail:
    """Return the recovery that began an epoch. Raises RecoveryNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_ONE, epoch)
        if row is None:
            raise RecoveryNotFoundError(f"no recovery began epoch {epoch}")
        counts = await postgres.fetchrow(_QUARANTINED, [epoch])
        lost = await postgres.fetchrow(_LOST, epoch)
        assert lost is not None
        waits_for = await find_open(postgres, *lost) if lost["up_to"] is not None else []
    pools = sorted(await list_quarantined(postgres, epoch=epoch), key=lambda pool: -(pool.held + pool.released))
    return RecoveryDetail(_recovery(row, counts), waits_for, pools[:MAX_POOLS])


async def accept_recovery(postgres: Pool, epoch: int, *, actor: str, act: Act[int] = UNKEPT) -> None:
    """Accept that what a recovery quarantined stays out of stock: there is nothing to decide about it.

    It can still be released. A repeat changes nothing. Raises RecoveryNotFoundError, PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        if await connection.fetchval(_ACCEPT, epoch, actor) is None:
            raise RecoveryNotFoundError(f"no recovery began epoch {epoch}")
        subject, detail = f"recovery:{epoch}", dict[str, Any]()
        await audit.record(connection, actor=actor, action="recovery.accept", subject=subject, detail=detail)
        await act.keep(connection, epoch)


def _recovery(row: Any, counts: Any) -> PastRecovery:
    report = orjson.loads(row["report"])
    held, released = (0, 0) if counts is None else (counts["held"], counts["released"])
    return PastRecovery(
        row["epoch"], row["verdict"], row["blessed_at"], report.get("reasons", []), report.get("drained", 0),
        report.get("missing", []), held, released, row["accepted_at"], row["accepted_by"],
    )  # fmt: skip


def _show_pool(pool: QuarantinedRange) -> dict[str, Any]:
    """Return a range without its pool, and without what the recovery says of all."""
    shown = asdict(pool)
    for name in ("pool_id", "epoch", "quarantined_at"):
        del shown[name]
    return shown

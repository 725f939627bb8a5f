"""The recoveries of an installation: what each found, and what of it is still open. Read from Postgres alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from issuer.instants import show_instant
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.recovery.release import QuarantinedRange, list_quarantined
from issuer.registration.registrations import OpenRegistration, find_open
from issuer.storage.postgres import Pool, unavailable_translated

MAX_POOLS: Final = 1_000
"""Pools that one recovery shows: those of which it quarantined most."""


class RecoveryNotFoundError(LookupError):
    """No recovery began this epoch."""


@dataclass(frozen=True, slots=True)
class PastRecovery:
    """A recovery. `held` of the codes that it quarantined are still out of stock, `released` are in stock again."""

    epoch: int
    verdict: str
    at: datetime
    reasons: Sequence[str]
    drained: int
    missing: Sequence[str]
    held: int
    released: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"at": show_instant(self.at)}


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
SELECT epoch, verdict, blessed_at, report FROM incarnations
WHERE shard = 0 AND ($1::bigint IS NULL OR epoch < $1) ORDER BY epoch DESC LIMIT $2"""
_ONE: Final = "SELECT epoch, verdict, blessed_at, report FROM incarnations WHERE shard = 0 AND epoch = $1"
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


def _recovery(row: Any, counts: Any) -> PastRecovery:
    report = orjson.loads(row["report"])
    held, released = (0, 0) if counts is None else (counts["held"], counts["released"])
    return PastRecovery(
        row["epoch"], row["verdict"], row["blessed_at"], report.get("reasons", []), report.get("drained", 0),
        report.get("missing", []), held, released,
    )  # fmt: skip


def _show_pool(pool: QuarantinedRange) -> dict[str, Any]:
    """Return a range without its pool, and without what the recovery says of all."""
    shown = asdict(pool)
    for name in ("pool_id", "epoch", "quarantined_at"):
        del shown[name]
    return shown

"""Seqs that nothing accounts for after a loss of Redis: the decision what becomes of them, made once, in Postgres.

If every registration of the lost epochs is settled, the recovery is exact: what was answered is in the ledger, so a gap
below the highest seq was answered to no caller. Its seq is void, and its code gets a new one at the tail of its pool
(`issuer.recovery.aftermath`).
Otherwise the loss is bounded: seqs that may have been answered are quarantined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from issuer.ledger.dead_letters import count_unreadable
from issuer.recovery.decision import RecoveryDecision, RecoveryPhase
from issuer.recovery.inspection import PoolState, Verdict
from issuer.recovery.serials import see_recorded, store_bases
from issuer.registration.registrations import find_open
from issuer.storage.floors import Floors
from issuer.storage.lineage import IncidentError, TokenKind, new_token
from issuer.storage.postgres import Connection, count_of

_ACCOUNTED: Final = """
SELECT greatest(
    (SELECT max(seq) FROM ledger WHERE pool_id = $1), (SELECT max(seq) FROM quarantined WHERE pool_id = $1),
    (SELECT max(seq) FROM dead_letters WHERE pool_id = $1), (SELECT max(seq) FROM void_seqs WHERE pool_id = $1), 0)"""

# A coupon has no rows in codes.
_SEQS: Final = "SELECT seq FROM codes WHERE pool_id = $1 AND seq <= $2"
_NUMBERS: Final = (
    "SELECT seq FROM generate_series(1::bigint, least($2, (SELECT total FROM pools WHERE id = $1))) AS s(seq)"
)
_UNACCOUNTED: Final = """
SELECT c.seq FROM ({seqs}) AS c
WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = $1 AND r.seq = c.seq)
  AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = $1 AND s.seq = c.seq)
  AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = $1 AND d.seq = c.seq)
  AND NOT EXISTS (SELECT FROM void_seqs v WHERE v.pool_id = $1 AND v.seq = c.seq)
ORDER BY c.seq"""
_QUARANTINE: Final = """
INSERT INTO quarantined (pool_id, seq, epoch, lost_after, lost_to)
SELECT $1, seq, $3, $4, $5 FROM ({unaccounted}) AS u"""

_MAKE_VOID: Final = "INSERT INTO void_seqs (pool_id, seq, epoch) SELECT $1, seq, $3 FROM ({unaccounted}) AS u"
# Of the decision that is not blessed yet, so the worker has not given their codes new seqs.
_DOUBT_VOID: Final = """
WITH doubted AS (
  DELETE FROM void_seqs WHERE epoch > (SELECT coalesce(max(epoch), 0) FROM incarnations) RETURNING pool_id, seq, epoch)
INSERT INTO quarantined (pool_id, seq, epoch) SELECT pool_id, seq, epoch FROM doubted"""
_PENDING: Final = "SELECT count(*) FROM void_seqs WHERE pool_id = $1 AND reissued_as IS NULL"

_LOCK_INSTALLATION: Final = "SELECT incident FROM installation FOR UPDATE"
_STORE_DECISION: Final = "UPDATE installation SET recovering = $1, lost_epoch = greatest(lost_epoch, $2)"


def _unaccounted(pool: PoolState) -> str:
    """Return the query for the seqs of a pool ($1) up to a seq ($2) that nothing accounts for."""
    return _UNACCOUNTED.format(seqs=_NUMBERS if pool.of_coupon else _SEQS)


def _up_to(pool: PoolState, accounted: int, bound: int) -> int:
    """Return the highest seq that a lost data set can have answered without a record."""
    # Codes are issued in the order of their seqs, and a partition never has more than `bound` redemptions outside the
    # ledger. Nor fewer than the surviving data show as issued, whatever the bound.
    return max(accounted + bound, pool.issued_before or 0)


async def plan(postgres: Connection, pools: Sequence[PoolState], decision: RecoveryDecision, bound: int) -> None:
    """Fill in what a recovery would quarantine; change nothing. Events still in the stream are not counted yet."""
    unreadable = await count_unreadable(postgres)
    for pool in pools:
        pool.issued_after = pool.accounted
        if pool.opened and not pool.drained and decision.verdict is Verdict.BOUNDED:
            row = await postgres.fetchrow(
                f"SELECT count(*) AS n, max(seq) AS last FROM ({_unaccounted(pool)}) AS u",
                pool.pool_id, _up_to(pool, pool.accounted, bound + unreadable.get(pool.partition, 0)),
            )  # fmt: skip
            assert row is not None
            pool.quarantined, pool.issued_after = row["n"], max(pool.accounted, row["last"] or 0)


async def decide(
    postgres: Connection,
    floors: Floors,
    pools: Sequence[PoolState],
    decision: RecoveryDecision,
    lost: tuple[int, int],
    *,
    bound: int,
    forced: bool,
) -> RecoveryDecision:
    """Decide about all pools or none, and once: EXACT or BOUNDED. Return the decision, which is stored.

    `lost`: after which epoch and up to which one something may be missing. `forced`: an operator knows that it is, or
    Postgres may have forgotten who registered.
    `floors`: the highest serials that are known; raised here to those with which the epoch begins.

    In the same transaction the bases of that epoch are stored: an event of an earlier one with a higher serial is void.
    """
    async with postgres.transaction():
        # A process that replays its journal holds the row meanwhile: what it brings into the ledger is not missing.
        if incident := await postgres.fetchval(_LOCK_INSTALLATION):
            raise IncidentError(incident)
        missing = await find_open(postgres, *lost)
        # What a dead letter of a whole entry contains has left the backlog, so it comes on top of the bound; and no
        # process knows whether it was answered.
        unreadable = await count_unreadable(postgres)
        is_first = decision.phase is RecoveryPhase.FENCED
        if is_first or bound > 0:
            if decision.verdict is Verdict.EXACT:
                # That was decided on what an operator knows to be incomplete: no seq is known to be unanswered.
                await postgres.execute(_DOUBT_VOID)
            decision = decision.decided(Verdict.BOUNDED if missing or unreadable or forced else Verdict.EXACT, bound)
        for pool in pools:
            if not pool.opened:
                continue
            if not pool.drained and (is_first or bound > 0):
                most = bound + unreadable.get(pool.partition, 0)
                await _decide_pool(postgres, floors.epoch, pool, decision, (None, None) if forced else lost, most)
            pool.issued_after = await postgres.fetchval(_ACCOUNTED, pool.pool_id)
            # Their codes come back to the tail: until then the pool is refilled, and not sold out.
            pool.total += await postgres.fetchval(_PENDING, pool.pool_id)
        await see_recorded(postgres, floors)
        if decision.verdict is Verdict.BOUNDED:
            # No lost fact has a serial more than the bound above the highest known one.
            floors.serials = [serial + bound for serial in floors.serials]
        await store_bases(postgres, floors, after_loss=True)
        # Also those epochs that this Postgres has never heard of, if it went back.
        await postgres.execute(_STORE_DECISION, decision.to_json(), floors.epoch - 1)
        await new_token(postgres, TokenKind.DECISION)
    return decision


async def _decide_pool(
    postgres: Connection,
    epoch: int,
    pool: PoolState,
    decision: RecoveryDecision,
    lost: tuple[int | None, int | None],
    bound: int,
) -> None:
    accounted = await postgres.fetchval(_ACCOUNTED, pool.pool_id)
    if decision.verdict is Verdict.BOUNDED:
        query = _QUARANTINE.format(unaccounted=_unaccounted(pool))
        status = await postgres.execute(query, pool.pool_id, _up_to(pool, accounted, bound), epoch, *lost)
        pool.quarantined = count_of(status)
    else:
        await postgres.execute(_MAKE_VOID.format(unaccounted=_unaccounted(pool)), pool.pool_id, accounted, epoch)

"""What is quarantined after a loss of Redis, of the seqs that nothing accounts for: decided once, in Postgres.

If every registration of the lost epochs is settled, the recovery is exact: what was answered is in the ledger, so a gap
below the highest seq was answered to no caller. Its seq is void, and its code gets a new one at the tail of its pool
(`issuer.recovery.aftermath`).
Otherwise the loss is bounded: seqs that may have been answered are quarantined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from issuer.ledger.dead_letters import count_unreadable
from issuer.recovery.decision import RecoveryDecision, RecoveryPhase
from issuer.recovery.inspection import PoolState, Verdict
from issuer.recovery.serials import see_recorded, store_bases
from issuer.registration.registrations import find_open
from issuer.storage.floors import Floors
from issuer.storage.lineage import IncidentError, TokenKind, new_token
from issuer.storage.postgres import Connection

_ACCOUNTED: Final = """
SELECT p.id, greatest(
    (SELECT max(seq) FROM ledger WHERE pool_id = p.id), (SELECT max(seq) FROM quarantined WHERE pool_id = p.id),
    (SELECT max(seq) FROM dead_letters WHERE pool_id = p.id), (SELECT max(seq) FROM void_seqs WHERE pool_id = p.id), 0
) AS seq FROM unnest($1::bigint[]) AS p(id)"""

# Pools ($1), each with the highest seq that may be missing ($2). A coupon has no rows in codes. LATERAL with an order:
# the ranges of each pool in the indexes, not whole tables.
_UNACCOUNTED: Final = """
SELECT u.pool_id, c.seq FROM unnest($1::bigint[], $2::bigint[]) AS u(pool_id, up_to)
CROSS JOIN LATERAL (
  SELECT seq FROM (
    SELECT seq FROM codes WHERE pool_id = u.pool_id AND seq <= u.up_to
    UNION ALL
    SELECT generate_series(1::bigint, least(u.up_to, p.total)) FROM pools p JOIN batches b ON b.id = p.batch_id
    WHERE p.id = u.pool_id AND b.kind = 'coupon') AS issuable
  WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = u.pool_id AND r.seq = issuable.seq)
    AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = u.pool_id AND s.seq = issuable.seq)
    AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = u.pool_id AND d.seq = issuable.seq)
    AND NOT EXISTS (SELECT FROM void_seqs v WHERE v.pool_id = u.pool_id AND v.seq = issuable.seq)
  ORDER BY seq) AS c"""
_PLAN: Final = f"SELECT pool_id, count(*) AS n, max(seq) AS last FROM ({_UNACCOUNTED}) AS u GROUP BY pool_id"
_QUARANTINE: Final = f"""
WITH made AS (
  INSERT INTO quarantined (pool_id, seq, epoch, lost_after, lost_to)
  SELECT pool_id, seq, $3, $4, $5 FROM ({_UNACCOUNTED}) AS u
  RETURNING pool_id)
SELECT pool_id, count(*) AS n FROM made GROUP BY pool_id"""

_MAKE_VOID: Final = f"""
INSERT INTO void_seqs (pool_id, seq, epoch) SELECT pool_id, seq, $3 FROM ({_UNACCOUNTED}) AS u"""
# Of the decision that is not blessed yet, so the worker has not given their codes new seqs.
_DOUBT_VOID: Final = """
WITH doubted AS (
  DELETE FROM void_seqs WHERE epoch > (SELECT coalesce(max(epoch), 0) FROM incarnations) RETURNING pool_id, seq, epoch)
INSERT INTO quarantined (pool_id, seq, epoch) SELECT pool_id, seq, epoch FROM doubted"""
_PENDING: Final = "SELECT pool_id, count(*) AS n FROM void_seqs WHERE reissued_as IS NULL GROUP BY pool_id"

_LOCK_INSTALLATION: Final = "SELECT incident FROM installation FOR UPDATE"
_STORE_DECISION: Final = "UPDATE installation SET recovering = $1, lost_epoch = greatest(lost_epoch, $2)"


def _up_to(pool: PoolState, accounted: int, bound: int) -> int:
    """Return the highest seq that a lost data set can have answered without a record."""
    # Codes are issued in the order of their seqs, and a partition never has more than `bound` redemptions outside the
    # ledger. Nor fewer than the surviving data show as issued, whatever the bound.
    return max(accounted + bound, pool.issued_before or 0)


async def plan(postgres: Connection, pools: Sequence[PoolState], decision: RecoveryDecision, bound: int) -> None:
    """Fill in what a recovery would quarantine; change nothing. Events still in the stream are not counted yet."""
    for pool in pools:
        pool.issued_after = pool.accounted
    if decision.verdict is Verdict.BOUNDED:
        unreadable = await count_unreadable(postgres)
        incomplete = {pool.pool_id: pool for pool in pools if pool.opened and not pool.drained}
        up_to = [
            _up_to(pool, pool.accounted, bound + unreadable.get(pool.partition, 0)) for pool in incomplete.values()
        ]
        for row in await postgres.fetch(_PLAN, list(incomplete), up_to):
            pool = incomplete[row["pool_id"]]
            pool.quarantined, pool.issued_after = row["n"], max(pool.accounted, row["last"])


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
        opened = {pool.pool_id: pool for pool in pools if pool.opened}
        if is_first or bound > 0:
            incomplete = [pool for pool in opened.values() if not pool.drained]
            most = [bound + unreadable.get(pool.partition, 0) for pool in incomplete]
            await _decide_pools(postgres, floors.epoch, incomplete, decision, (None, None) if forced else lost, most)
        for pool_id, seq in (await _find_accounted(postgres, list(opened))).items():
            opened[pool_id].issued_after = seq
        for row in await postgres.fetch(_PENDING):
            # Their codes come back to the tail: until then the pool is refilled, and not sold out.
            if (pool := opened.get(row["pool_id"])) is not None:
                pool.total += row["n"]
        await see_recorded(postgres, floors)
        if decision.verdict is Verdict.BOUNDED:
            # No lost fact has a serial more than the bound above the highest known one.
            floors.serials = [serial + bound for serial in floors.serials]
        await store_bases(postgres, floors, after_loss=True)
        # Also those epochs that this Postgres has never heard of, if it went back.
        await postgres.execute(_STORE_DECISION, decision.to_json(), floors.epoch - 1)
        await new_token(postgres, TokenKind.DECISION)
    return decision


async def _find_accounted(postgres: Connection, pool_ids: Sequence[int]) -> Mapping[int, int]:
    """Return the highest seq of each pool that anything accounts for."""
    return {row["id"]: row["seq"] for row in await postgres.fetch(_ACCOUNTED, pool_ids)}


async def _decide_pools(
    postgres: Connection,
    epoch: int,
    pools: Sequence[PoolState],
    decision: RecoveryDecision,
    lost: tuple[int | None, int | None],
    bounds: Sequence[int],
) -> None:
    ids = [pool.pool_id for pool in pools]
    accounted = await _find_accounted(postgres, ids)
    if decision.verdict is Verdict.BOUNDED:
        up_to = [_up_to(pool, accounted[pool.pool_id], most) for pool, most in zip(pools, bounds, strict=True)]
        rows = await postgres.fetch(_QUARANTINE, ids, up_to, epoch, *lost)
        quarantined = {row["pool_id"]: row["n"] for row in rows}
        for pool in pools:
            pool.quarantined = quarantined.get(pool.pool_id, 0)
    else:
        await postgres.execute(_MAKE_VOID, ids, [accounted[pool_id] for pool_id in ids], epoch)

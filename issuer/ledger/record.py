"""Record redemptions in the ledger, each exactly once, and store an anomaly for each that contradicts the ledger.

Everything here runs in the caller's transaction. An event that is recorded already is compared with its row; a
difference becomes an anomaly for an operator, never an error and never silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog

from issuer.contract.events import Redemption, RedemptionColumns
from issuer.ledger.anomalies import Anomaly, bigint_or_none, record_anomalies
from issuer.ledger.lost_epochs import list_late, refuse_void
from issuer.storage.postgres import AnyConnection

log = structlog.get_logger()

DATA_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,  # the driver cannot encode a value, such as a number out of range
)
"""Errors caused by the data: the same rows would fail again."""


@dataclass(frozen=True, slots=True)
class RejectedRedemption:
    """A redemption that cannot be recorded: its index among those given, and why."""

    index: int
    reason: str


@dataclass(slots=True)
class RecordResult:
    """What became of the redemptions given: inserted + duplicates + contradicted + void + rejected = all.

    duplicates:   were recorded already, with the same content
    contradicted: not recorded, because the ledger or the quarantine contradicts them; an anomaly has the details
    anomalies:    stored anomalies
    rejected:     for the caller's dead letters
    void:         not recorded, because a recovery has proved that no caller received them
    dead_letters: stored by `issuer.ledger.entries.record_entries`: the rejected ones, and entries that cannot be read
    """

    inserted: int = 0
    duplicates: int = 0
    contradicted: int = 0
    void: int = 0
    anomalies: int = 0
    rejected: list[RejectedRedemption] = field(default_factory=list)
    dead_letters: int = 0

    def add(self, other: RecordResult) -> None:
        """Add the numbers of another result."""
        self.inserted += other.inserted
        self.duplicates += other.duplicates
        self.contradicted += other.contradicted
        self.void += other.void
        self.anomalies += other.anomalies
        self.rejected += other.rejected
        self.dead_letters += other.dead_letters


_ARRAYS: Final = (
    "$1::bigint[], $2::bigint[], $3::text[], $4::uuid[], $5::bigint[], $6::uuid[], $7::bytea[], $8::int[], "
    "$9::bigint[], $10::bigint[], $11::text[]"
)
_COLUMNS: Final = "pool_id, seq, code, customer_id, at_ms, call_id, key_hash, api_key_id, epoch, serial, customer_text"
_OF_CODES: Final = 11
"""The first columns of an event, those of a redemption: for most events the rest is not sent."""
_CODE_EVENTS: Final = f"unnest({_ARRAYS}) WITH ORDINALITY AS e({_COLUMNS}, place)"
_EVENTS: Final = f"unnest({_ARRAYS}, $12::int[], $13::text[]) WITH ORDINALITY AS e({_COLUMNS}, terms, order_id, place)"
_AT: Final = "(timestamptz 'epoch' + e.at_ms * interval '1 millisecond')"

# LATERAL … LIMIT 1 fixes the plan: one look-up by primary key per event, whatever the size of `codes` and its
# statistics. ORDER BY prevents a deadlock of two workers that insert the same rows. Of two events with one seq the
# first counts: the receipt of a replay follows that of the grant and names the API key of the replay.
_INSERT_REDEMPTIONS: Final = f"""
WITH inserted AS (
  INSERT INTO redemptions
    (pool_id, seq, batch_id, code, customer_id, customer_text, redeemed_at, call_id, key_hash, api_key_id, epoch,
     serial)
  SELECT e.pool_id, e.seq, c.batch_id, e.code, e.customer_id, e.customer_text, {_AT}, e.call_id, e.key_hash,
    e.api_key_id, e.epoch, nullif(e.serial, 0)
  FROM {_CODE_EVENTS}
  CROSS JOIN LATERAL (
    SELECT batch_id, code FROM codes WHERE codes.pool_id = e.pool_id AND codes.seq = e.seq LIMIT 1
  ) c
  WHERE c.code = e.code
  ORDER BY e.pool_id, e.seq, e.place
  ON CONFLICT (pool_id, seq) DO NOTHING
  RETURNING pool_id
)
SELECT count(*) FROM inserted"""

_INSERT_CONSUMPTIONS: Final = f"""
WITH inserted AS (
  INSERT INTO consumptions
    (pool_id, seq, terms, customer_id, customer_text, order_id, consumed_at, call_id, key_hash, api_key_id, epoch,
     serial)
  SELECT e.pool_id, e.seq, e.terms, e.customer_id, e.customer_text, nullif(e.order_id, ''), {_AT}, e.call_id,
    e.key_hash, e.api_key_id, e.epoch, nullif(e.serial, 0)
  FROM {_EVENTS}
  CROSS JOIN LATERAL (
    SELECT number FROM coupon_terms t WHERE t.pool_id = e.pool_id AND t.number = e.terms LIMIT 1
  ) t
  CROSS JOIN LATERAL (SELECT total FROM pools WHERE pools.id = e.pool_id LIMIT 1) p
  WHERE e.seq BETWEEN 1 AND p.total
  ORDER BY e.pool_id, e.seq, e.place
  ON CONFLICT (pool_id, seq) DO NOTHING
  RETURNING pool_id
)
SELECT count(*) FROM inserted"""

# The events that are not in the ledger with the same content. An erased customer is no difference, nor is what one of
# them does not know: the receipt of a replay has no call id.
_DIFFERENCES: Final = f"""
SELECT e.place - 1 AS place, r.seq IS NOT NULL AS in_ledger, c.code AS code_there, p.id IS NOT NULL AS pool_there,
  r.code, r.customer_id, r.call_id, r.redeemed_at, r.epoch, r.serial
FROM {_EVENTS}
LEFT JOIN LATERAL (
  SELECT * FROM ledger WHERE ledger.pool_id = e.pool_id AND ledger.seq = e.seq LIMIT 1
) r ON true
LEFT JOIN LATERAL (
  SELECT code FROM codes WHERE codes.pool_id = e.pool_id AND codes.seq = e.seq LIMIT 1
) c ON true
LEFT JOIN LATERAL (SELECT id FROM pools WHERE pools.id = e.pool_id LIMIT 1) p ON true
WHERE r.seq IS NULL OR r.code <> e.code OR r.call_id <> e.call_id OR r.redeemed_at <> {_AT}
  OR (r.epoch, r.serial) <> (e.epoch, nullif(e.serial, 0))
  OR r.terms <> e.terms OR r.order_id <> e.order_id
  OR (r.customer_id IS NOT NULL AND r.customer_id IS DISTINCT FROM e.customer_id)"""

# Locked, so that no operator releases a seq while its late event is recorded.
_QUARANTINED: Final = """
SELECT e.place - 1 AS place, s.epoch, s.released_at, s.released_as
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS e(pool_id, seq, place)
CROSS JOIN LATERAL (
  SELECT * FROM quarantined WHERE quarantined.pool_id = e.pool_id AND quarantined.seq = e.seq LIMIT 1 FOR UPDATE
) s"""

_UNSETTLED: Final = """
SELECT EXISTS (SELECT FROM quarantined) AS quarantined,
       EXISTS (SELECT FROM dead_letters WHERE resolved_at IS NULL AND seq IS NOT NULL) AS dead_letters,
       coalesce((SELECT max(epoch) FROM epoch_bases), 0) AS base_epoch,
       coalesce((SELECT max(lost_epoch) FROM installation), 0) AS lost_epoch"""


async def record_redemptions(
    connection: AnyConnection, redemptions: Sequence[Redemption] | RedemptionColumns
) -> RecordResult:
    """Record redemptions in the ledger within the caller's transaction. A repetition changes nothing.

    A late event of a quarantined seq moves the seq into the ledger. One that a recovery has made void is refused and
    counted. Redemptions that cannot be recorded (unknown pool,
    a code that is not the seq's, data that Postgres refuses) are returned as `rejected`, for the caller's dead letters.
    Raises only errors that say that Postgres is unavailable or busy.
    """
    if isinstance(redemptions, RedemptionColumns):
        columns = redemptions
    else:
        columns = RedemptionColumns()
        for redemption in redemptions:
            columns.append(redemption)
    if not columns:
        return RecordResult()
    unsettled = await connection.fetchrow(_UNSETTLED)
    assert unsettled is not None
    recorder = _Recorder(connection, columns)
    oldest = min(columns.epochs)
    refused = await recorder.refuse_void() if oldest < unsettled["base_epoch"] else frozenset()
    if unsettled["quarantined"]:
        refused |= await recorder.lock_quarantined(refused)
    if refused:
        places = [place for place in range(len(columns)) if place not in refused]
        await recorder.insert(places, columns.take(places))
    else:
        await recorder.insert(range(len(columns)), columns)
    await recorder.settle(dead_letters=unsettled["dead_letters"])
    if recorder.recorded.inserted and oldest <= unsettled["lost_epoch"]:
        await list_late(connection, columns, unsettled["lost_epoch"])
    return recorder.recorded


def _content(row: asyncpg.Record) -> dict[str, Any]:
    """Return what an anomaly shows of a recorded redemption."""
    return {key: row[key] for key in ("code", "customer_id", "call_id", "redeemed_at", "epoch", "serial")}


class _Recorder:
    """The recording of the redemptions of one call. `places` are indexes into them."""

    def __init__(self, connection: AnyConnection, columns: RedemptionColumns) -> None:
        self.connection = connection
        self.columns = columns
        self.recorded = RecordResult()
        self._anomalies: list[Anomaly] = []
        self._quarantined: set[int] = set()

    def _addressable(self) -> list[int]:
        """Return the places whose pool and seq Postgres can store. The others are in no table."""
        numbers = zip(self.columns.pool_ids, self.columns.seqs, strict=True)
        return [
            place
            for place, (pool_id, seq) in enumerate(numbers)
            if bigint_or_none(pool_id) is not None and bigint_or_none(seq) is not None
        ]

    async def refuse_void(self) -> frozenset[int]:
        """Return the places of redemptions that a recovery has made void, and count them."""
        refused = await refuse_void(self.connection, self.columns, self._addressable())
        self.recorded.void = len(refused)
        return refused

    async def lock_quarantined(self, void: frozenset[int]) -> frozenset[int]:
        """Lock the quarantined seqs among the redemptions. Return the places of those that were released: anomalies."""
        known = [place for place in self._addressable() if place not in void]
        some = self.columns.take(known)
        released = set()
        for row in await self.connection.fetch(_QUARANTINED, some.pool_ids, some.seqs):
            place = known[row["place"]]
            if row["released_at"] is None:
                self._quarantined.add(place)
            else:
                released.add(place)
                stored = {"released_at": row["released_at"].isoformat(), "released_as": row["released_as"]}
                self._contradict("released_code_redeemed", place, stored)
        return frozenset(released)

    async def insert(self, places: Sequence[int], columns: RedemptionColumns) -> None:
        """Insert redemptions and consumptions, each into its half of the ledger."""
        if not any(columns.terms):
            await self._insert(places, columns)
            return
        for of_coupons in (False, True):
            some = [at for at, terms in enumerate(columns.terms) if bool(terms) is of_coupons]
            await self._insert([places[at] for at in some], columns.take(some))

    async def _insert(self, places: Sequence[int], columns: RedemptionColumns) -> None:
        """Insert rows of one half of the ledger. What Postgres refuses is halved until each bad row is alone."""
        if not columns:
            return
        try:
            async with self.connection.transaction():
                if columns.terms[0]:
                    inserted = await self.connection.fetchval(_INSERT_CONSUMPTIONS, *columns.columns())
                else:
                    inserted = await self.connection.fetchval(_INSERT_REDEMPTIONS, *columns.columns()[:_OF_CODES])
        except DATA_ERRORS as error:
            if len(columns) == 1:
                self._refuse(places[0], error)
                return
            middle = len(columns) // 2
            await self._insert(places[:middle], columns.slice(0, middle))
            await self._insert(places[middle:], columns.slice(middle, len(columns)))
            return
        self.recorded.inserted += inserted
        if inserted < len(columns):
            await self._compare(places, columns, len(columns) - inserted)

    async def _compare(self, places: Sequence[int], columns: RedemptionColumns, not_inserted: int) -> None:
        differences = await self.connection.fetch(_DIFFERENCES, *columns.columns())
        self.recorded.duplicates += not_inserted - len(differences)
        for row in differences:
            place = places[row["place"]]
            if row["in_ledger"]:
                self._contradict("other_redemption_in_ledger", place, _content(row))
            elif row["code_there"] is not None:
                self._reject(place, "not the code of this seq", "wrong_code", {"code": row["code_there"]})
            elif row["pool_there"] and columns.terms[row["place"]]:
                self._reject(place, "no such consumption of the coupon, or none under these terms", "unknown_seq", {})
            elif row["pool_there"]:
                self._reject(place, "no such seq in the pool", "unknown_seq", {})
            else:
                self._reject(place, "unknown pool", None, {})

    def _refuse(self, place: int, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        broken_promise = isinstance(error, asyncpg.IntegrityConstraintViolationError)
        kind = "code_redeemed_twice" if isinstance(error, asyncpg.UniqueViolationError) else "constraint_violated"
        self._reject(place, reason, kind if broken_promise else None, {"error": reason})

    def _reject(self, place: int, reason: str, kind: str | None, stored: dict[str, Any]) -> None:
        if kind is not None:
            self._add_anomaly(kind, place, stored)
        if place in self._quarantined:
            # The seq is accounted for in the quarantine. The anomaly has the details.
            self._quarantined.discard(place)
            self.recorded.contradicted += 1
        else:
            self.recorded.rejected.append(RejectedRedemption(place, reason))

    def _contradict(self, kind: str, place: int, stored: dict[str, Any]) -> None:
        self.recorded.contradicted += 1
        self._quarantined.discard(place)
        self._add_anomaly(kind, place, stored)

    def _add_anomaly(self, kind: str, place: int, stored: dict[str, Any]) -> None:
        event = next(self.columns.slice(place, place + 1).redemptions())
        self._anomalies.append(Anomaly.of_redemption(kind, event, stored))

    async def _contradict_rejected(self) -> None:
        """Count rejected redemptions whose seq is recorded as contradicted: a dead letter would count the seq twice."""
        addressable = set(self._addressable())
        places = [r.index for r in self.recorded.rejected if r.index in addressable]
        some = self.columns.take(places)
        rows = await self.connection.fetch(_RECORDED, some.pool_ids, some.seqs)
        recorded = {places[row["place"]]: row for row in rows}
        for rejected in [r for r in self.recorded.rejected if r.index in recorded]:
            self.recorded.rejected.remove(rejected)
            self._contradict("other_redemption_in_ledger", rejected.index, _content(recorded[rejected.index]))

    async def settle(self, *, dead_letters: bool) -> None:
        """Take recorded seqs out of the quarantine and the unresolved dead letters, and store the anomalies."""
        if self.recorded.rejected:
            await self._contradict_rejected()
        if self._quarantined:
            moved = self.columns.take(sorted(self._quarantined))
            await self.connection.execute(_LEAVE_QUARANTINE, moved.pool_ids, moved.seqs)
            log.info("recorded late events of quarantined seqs", redemptions=len(moved))
        if dead_letters:
            kept = self.columns.take(self._addressable())
            await self.connection.execute(_RESOLVE, kept.pool_ids, kept.seqs)
        if self._anomalies:
            self.recorded.anomalies = len(self._anomalies)
            await record_anomalies(self.connection, self._anomalies)


_RECORDED: Final = """
SELECT e.place - 1 AS place, r.* FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS e(pool_id, seq, place)
CROSS JOIN LATERAL (
  SELECT * FROM ledger WHERE ledger.pool_id = e.pool_id AND ledger.seq = e.seq LIMIT 1
) r"""

_LEAVE_QUARANTINE: Final = """
DELETE FROM quarantined s USING unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE s.pool_id = e.pool_id AND s.seq = e.seq AND s.released_at IS NULL
  AND EXISTS (SELECT FROM ledger r WHERE r.pool_id = s.pool_id AND r.seq = s.seq)"""

_RESOLVE: Final = """
UPDATE dead_letters d SET resolved_at = now() FROM unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE d.pool_id = e.pool_id AND d.seq = e.seq AND d.resolved_at IS NULL
  AND EXISTS (SELECT FROM ledger r WHERE r.pool_id = d.pool_id AND r.seq = d.seq)"""

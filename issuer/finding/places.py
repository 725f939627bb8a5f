"""The time lines of codes and of uses of coupons, by pool and seq: what every table has about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from issuer.coupons.uses import consumption_id
from issuer.finding.found import CodeName, EventKind, FoundEvent, mask_code
from issuer.storage.postgres import AnyConnection


class LedgerPlace(NamedTuple):
    """What names a code or a use of a coupon in the ledger. `seq` 0: a coupon, whatever uses it has."""

    pool_id: int
    seq: int


# LATERAL … LIMIT 1 fixes the plan: one look-up by primary key per place, whatever the sizes of the tables.
_FACTS: Final = """
SELECT e.pool_id, e.seq, p.batch_id, b.name AS batch_name, p.client_id, k.name AS client_name, b.kind, b.created_at,
  coalesce(c.code, cp.code, '') AS code, c.code IS NOT NULL AS is_code,
  r.redeemed_at, r.recorded_at, r.call_id, r.order_id, r.customer_id, r.customer_text,
  v.reversed_at, q.quarantined_at, q.released_at, q.released_as, w.reissued_as, w.seq IS NOT NULL AS is_void
FROM unnest($1::bigint[], $2::bigint[]) AS e (pool_id, seq)
JOIN pools p ON p.id = e.pool_id JOIN batches b ON b.id = p.batch_id LEFT JOIN clients k ON k.id = p.client_id
LEFT JOIN coupons cp ON cp.pool_id = e.pool_id
LEFT JOIN LATERAL (SELECT code FROM codes WHERE pool_id = e.pool_id AND seq = e.seq LIMIT 1) c ON true
LEFT JOIN LATERAL (
  SELECT redeemed_at, recorded_at, call_id, NULL::text AS order_id, customer_id, customer_text
  FROM redemptions WHERE pool_id = e.pool_id AND seq = e.seq
  UNION ALL SELECT consumed_at, recorded_at, call_id, order_id, customer_id, customer_text
  FROM consumptions WHERE pool_id = e.pool_id AND seq = e.seq LIMIT 1) r ON true
LEFT JOIN reversals v ON v.pool_id = e.pool_id AND v.seq = e.seq
LEFT JOIN quarantined q ON q.pool_id = e.pool_id AND q.seq = e.seq
LEFT JOIN void_seqs w ON w.pool_id = e.pool_id AND w.seq = e.seq"""

# A released code has a new seq: what happened to it before is listed under the old one.
_BEFORE: Final = """
SELECT e.pool_id, q.seq FROM unnest($1::bigint[], $2::bigint[]) AS e (pool_id, seq)
JOIN quarantined q ON q.pool_id = e.pool_id AND q.released_as = e.seq
UNION
SELECT e.pool_id, w.seq FROM unnest($1::bigint[], $2::bigint[]) AS e (pool_id, seq)
JOIN void_seqs w ON w.pool_id = e.pool_id AND w.reissued_as = e.seq"""

# Small tables: what is in them is a fault, or was one.
_FAULTS: Final = """
SELECT d.pool_id, d.seq, d.created_at, d.resolved_at, d.reason, '' AS kind
FROM dead_letters d JOIN unnest($1::bigint[], $2::bigint[]) AS e (pool_id, seq) USING (pool_id, seq)
UNION ALL
SELECT a.pool_id, a.seq, a.created_at, NULL, '', a.kind
FROM anomalies a JOIN unnest($1::bigint[], $2::bigint[]) AS e (pool_id, seq) USING (pool_id, seq)"""


class PlaceLines(NamedTuple):
    """The name of each place, and the events of all of them."""

    names: dict[LedgerPlace, CodeName]
    events: list[FoundEvent]


async def read_places(connection: AnyConnection, places: Sequence[LedgerPlace]) -> PlaceLines:
    """Return what has happened to these codes and uses."""
    wanted = list(dict.fromkeys(places))
    earlier = [LedgerPlace(*row) for row in await connection.fetch(_BEFORE, *_columns(wanted))]
    wanted = list(dict.fromkeys((*wanted, *earlier)))
    names: dict[LedgerPlace, CodeName] = {}
    events: list[FoundEvent] = []
    for row in await connection.fetch(_FACTS, *_columns(wanted)):
        place = LedgerPlace(row["pool_id"], row["seq"])
        names[place] = _name(row)
        events += _events(row, names[place])
    for row in await connection.fetch(_FAULTS, *_columns(wanted)):
        name = names[LedgerPlace(row["pool_id"], row["seq"])]
        if row["kind"]:
            events.append(FoundEvent(row["created_at"], EventKind.ANOMALY, name, note=row["kind"]))
            continue
        events.append(FoundEvent(row["created_at"], EventKind.DEAD_LETTER, name, note=row["reason"]))
        if row["resolved_at"] is not None:
            events.append(FoundEvent(row["resolved_at"], EventKind.RESOLVED, name))
    return PlaceLines(names, events)


def _columns(places: Sequence[LedgerPlace]) -> tuple[list[int], list[int]]:
    return [place.pool_id for place in places], [place.seq for place in places]


def _name(row: Any) -> CodeName:
    return CodeName(
        UUID(bytes=row["batch_id"].bytes), row["batch_name"], UUID(bytes=row["client_id"].bytes), row["client_name"],
        row["seq"], mask_code(row["code"]), row["kind"] == "coupon",
    )  # fmt: skip


def _events(row: Any, name: CodeName) -> Iterator[FoundEvent]:
    """Yield what the tables say of one place, in no order."""
    if row["is_code"]:
        yield FoundEvent(None, EventKind.LOADED, name)
    elif row["seq"] == 0:
        yield FoundEvent(row["created_at"], EventKind.LOADED, name)
    if row["redeemed_at"] is not None:
        yield _issued(row, name)
        yield FoundEvent(row["recorded_at"], EventKind.RECORDED, name)
    if row["reversed_at"] is not None:
        yield FoundEvent(row["reversed_at"], EventKind.REVERSED, name)
    if row["quarantined_at"] is not None:
        yield FoundEvent(row["quarantined_at"], EventKind.QUARANTINED, name)
    if row["released_at"] is not None:
        yield FoundEvent(row["released_at"], EventKind.RELEASED, name, note=_moved(row["released_as"]))
    if row["is_void"]:
        yield FoundEvent(None, EventKind.VOID, name, note=_moved(row["reissued_as"]))


def _issued(row: Any, name: CodeName) -> FoundEvent:
    customer = row["customer_id"]
    is_use = row["kind"] == "coupon" and row["call_id"] is not None
    return FoundEvent(
        row["redeemed_at"], EventKind.ISSUED, name,
        customer_id=None if customer is None else UUID(bytes=customer.bytes), customer=row["customer_text"],
        order_id=row["order_id"],
        use_id=consumption_id(row["pool_id"], row["seq"], row["call_id"].hex) if is_use else None,
    )  # fmt: skip


def _moved(seq: int | None) -> str:
    return "" if seq is None else f"the code is number {seq} of its pool since"

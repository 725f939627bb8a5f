"""What can be reported: the columns, the filters and the one query of each report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

from issuer.batches.rules import parse_rules
from issuer.coupons.folding import fold
from issuer.coupons.uses import consumption_id


class Filter(StrEnum):
    """What a report can be narrowed to. CODE is that of a coupon, without regard to case, spaces and dashes; FROM is
    included, TO is not."""

    BATCH = "batch_id"
    CLIENT = "client_id"
    CUSTOMER = "customer_id"
    CODE = "code"
    FROM = "from"
    TO = "to"


TIMES: Final = (Filter.FROM, Filter.TO)

Selection = Mapping[Filter, UUID | datetime | str]
"""The filters that are set. Each must be one of the report's."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    `query` selects exactly the columns and takes the filters as its parameters, $1 the first; one that is null
    filters nothing. CLIENT must be among them and must leave nothing of another client in the rows: keys that are
    bound to a client get their reports through it. Values are shown as `formats.plain` does, those of the columns in
    `shown` as these functions do.
    """

    name: str
    summary: str
    filters: tuple[Filter, ...]
    columns: tuple[str, ...]
    query: str
    shown: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)

    def arguments(self, selection: Selection) -> list[UUID | datetime | str | None]:
        """The parameters of the query. A filter that the report does not have is a mistake of the caller."""
        unknown = selection.keys() - set(self.filters)
        if unknown:
            raise ValueError(f"{self.name} have no filter {', '.join(sorted(unknown))}")
        return [_argument(selection.get(name)) for name in self.filters]


def _argument(value: UUID | datetime | str | None) -> UUID | datetime | str | None:
    return fold(value) if isinstance(value, str) else value


def _shown_use(text: str) -> str:
    pool_id, seq, call_id = text.split()
    return consumption_id(int(pool_id), int(seq), call_id)


def _shown_rules(text: str) -> dict[str, Any]:
    return parse_rules(orjson.loads(text)).to_json()


REDEMPTIONS: Final = Report(
    name="redemptions",
    summary="What was handed out, as the ledger has it: one row a redemption, in order of pool and seq",
    filters=(Filter.BATCH, Filter.CLIENT, Filter.CUSTOMER, Filter.FROM, Filter.TO),
    columns=(
        "batch_id", "client_id", "code", "customer_id", "redeemed_at", "seq", "recorded_at", "api_key_id",
        "idempotency_key_hash",
    ),
    query="""
SELECT r.batch_id, p.client_id, r.code, r.customer_id, r.redeemed_at, r.seq, r.recorded_at, r.api_key_id,
  r.key_hash AS idempotency_key_hash
FROM redemptions r JOIN pools p ON p.id = r.pool_id
WHERE ($1::uuid IS NULL OR r.pool_id = ANY(SELECT id FROM pools WHERE batch_id = $1))
  AND ($2::uuid IS NULL OR r.pool_id = ANY(SELECT id FROM pools WHERE client_id = $2))
  AND ($3::uuid IS NULL OR r.customer_id = $3)
  AND ($4::timestamptz IS NULL OR r.redeemed_at >= $4)
  AND ($5::timestamptz IS NULL OR r.redeemed_at < $5)
ORDER BY r.pool_id, r.seq""",
)  # fmt: skip

BATCHES: Final = Report(
    name="batches",
    summary="Batches, newest first, with how many codes each has and how many of them the ledger has as redeemed. "
    "The time is that of their making; with a client only what is that client's counts",
    filters=(Filter.BATCH, Filter.CLIENT, Filter.FROM, Filter.TO),
    columns=(
        "id", "name", "rules", "expired", "starts_at", "ends_at", "paused", "created_at", "ended_at", "codes",
        "redeemed",
    ),
    query="""
SELECT b.id, b.name, b.rules::text AS rules, b.ended_at IS NOT NULL OR coalesce(b.ends_at <= now(), false) AS expired,
  b.starts_at, b.ends_at, b.paused, b.created_at, b.ended_at, stock.codes, stock.redeemed
FROM batches b CROSS JOIN LATERAL (
  SELECT coalesce(sum(p.total), 0)::bigint AS codes, count(*) AS pools,
    coalesce(sum((SELECT count(*) FROM redemptions r WHERE r.pool_id = p.id)), 0)::bigint AS redeemed
  FROM pools p WHERE p.batch_id = b.id AND ($2::uuid IS NULL OR p.client_id = $2)
) stock
WHERE b.kind = 'codes' AND ($1::uuid IS NULL OR b.id = $1)
  AND ($2::uuid IS NULL OR stock.pools > 0)
  AND ($3::timestamptz IS NULL OR b.created_at >= $3)
  AND ($4::timestamptz IS NULL OR b.created_at < $4)
ORDER BY b.created_at DESC, b.id DESC""",
    shown={"rules": _shown_rules},
)  # fmt: skip

CONSUMPTIONS: Final = Report(
    name="consumptions",
    summary="Uses of coupons, as the ledger has them: one row a use, in order of coupon and number, with what it was "
    "worth then; one that was given back says when",
    filters=(Filter.CODE, Filter.CLIENT, Filter.CUSTOMER, Filter.FROM, Filter.TO),
    columns=(
        "consumption_id", "client_id", "code", "customer_id", "order_id", "consumed_at", "seq", "product_id",
        "promo_type", "discount_fixed", "currency", "discount_variable", "reversed_at", "recorded_at", "api_key_id",
        "idempotency_key_hash",
    ),
    query="""
SELECT concat_ws(' ', u.pool_id, u.seq, replace(u.call_id::text, '-', '')) AS consumption_id, c.client_id, c.code,
  u.customer_id, u.order_id, u.consumed_at, u.seq, t.terms->>'product_id' AS product_id,
  t.terms->>'promo_type' AS promo_type, t.terms->>'discount_fixed' AS discount_fixed,
  t.terms->>'currency' AS currency, t.terms->>'discount_variable' AS discount_variable, v.reversed_at, u.recorded_at,
  u.api_key_id, u.key_hash AS idempotency_key_hash
FROM consumptions u JOIN coupons c ON c.pool_id = u.pool_id
LEFT JOIN coupon_terms t ON t.pool_id = u.pool_id AND t.number = u.terms
LEFT JOIN reversals v ON v.pool_id = u.pool_id AND v.seq = u.seq
WHERE ($1::text IS NULL OR u.pool_id = ANY(SELECT pool_id FROM coupons WHERE folded = $1))
  AND ($2::uuid IS NULL OR u.pool_id = ANY(SELECT pool_id FROM coupons WHERE client_id = $2))
  AND ($3::uuid IS NULL OR u.customer_id = $3)
  AND ($4::timestamptz IS NULL OR u.consumed_at >= $4)
  AND ($5::timestamptz IS NULL OR u.consumed_at < $5)
ORDER BY u.pool_id, u.seq""",
    shown={"consumption_id": _shown_use},
)  # fmt: skip

COUPONS: Final = Report(
    name="coupons",
    summary="Coupons, newest first, deleted ones too, with how often each was consumed and given back, as the ledger "
    "has it. The time is that of their making",
    filters=(Filter.CODE, Filter.CLIENT, Filter.FROM, Filter.TO),
    columns=(
        "client_id", "code", "expiry_date", "availability_count", "product_id", "promo_type", "discount_fixed",
        "currency", "discount_variable", "rules", "paused", "expired", "created_at", "updated_at", "deleted_at",
        "consumed", "reversed",
    ),
    query="""
SELECT c.client_id, c.code, b.ends_at AS expiry_date, c.available AS availability_count, c.product_id, c.promo_type,
  c.discount_fixed::text AS discount_fixed, c.currency, c.discount_variable::text AS discount_variable,
  b.rules::text AS rules, b.paused, b.ended_at IS NOT NULL OR coalesce(b.ends_at <= now(), false) AS expired,
  b.created_at, c.updated_at, b.ended_at AS deleted_at,
  (SELECT count(*) FROM consumptions u WHERE u.pool_id = c.pool_id) AS consumed, c.reversed
FROM coupons c JOIN batches b ON b.id = c.batch_id
WHERE ($1::text IS NULL OR c.folded = $1)
  AND ($2::uuid IS NULL OR c.client_id = $2)
  AND ($3::timestamptz IS NULL OR b.created_at >= $3)
  AND ($4::timestamptz IS NULL OR b.created_at < $4)
ORDER BY b.created_at DESC, b.id DESC""",
    shown={"rules": _shown_rules},
)  # fmt: skip

REPORTS: Final[dict[str, Report]] = {report.name: report for report in (REDEMPTIONS, CONSUMPTIONS, COUPONS, BATCHES)}
"""Every report, by its name: over HTTP, on the command line and in the documentation."""

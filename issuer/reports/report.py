"""The reports: columns, filters and query of each."""

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
from issuer.ids import redemption_id


class Filter(StrEnum):
    """A filter of a report. CODE is the code of a coupon, in any case and without regard to spaces and dashes.
    PROGRAM is the id of a program, of which a request gives that or its name.

    FROM is inclusive, TO is exclusive.
    """

    BATCH = "batch_id"
    CLIENT = "client_id"
    CUSTOMER = "customer_id"
    CODE = "code"
    PROGRAM = "program"
    FROM = "from"
    TO = "to"


TIMES: Final = (Filter.FROM, Filter.TO)

Selection = Mapping[Filter, UUID | datetime | str]
"""The values of the filters in use. Each must be a filter of the report."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    `query` selects exactly the columns and takes the filters as its parameters, in order from $1; a null parameter
    filters nothing. CLIENT must be one of them and must exclude all rows of other clients: keys that are bound to a
    client get their reports through it. Values are encoded by `formats.plain`, or by the functions in `shown`.
    """

    name: str
    summary: str
    filters: tuple[Filter, ...]
    columns: tuple[str, ...]
    query: str
    shown: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)

    def arguments(self, selection: Selection) -> list[UUID | datetime | str | None]:
        """Return the parameters of the query. Raises ValueError for a filter that the report does not have."""
        unknown = selection.keys() - set(self.filters)
        if unknown:
            raise ValueError(f"{self.name} have no filter {', '.join(sorted(unknown))}")
        return [_argument(selection.get(name)) for name in self.filters]


def _argument(value: UUID | datetime | str | None) -> UUID | datetime | str | None:
    return fold(value) if isinstance(value, str) else value


def _shown_use(text: str) -> str:
    pool_id, seq, call_id = text.split()
    return consumption_id(int(pool_id), int(seq), call_id)


def _shown_redemption(text: str) -> UUID:
    installation, batch_id, code = text.split(" ", 2)
    return redemption_id(batch_id, code, UUID(installation))


def _shown_rules(text: str) -> dict[str, Any]:
    return parse_rules(orjson.loads(text)).to_json()


REDEMPTIONS: Final = Report(
    name="redemptions",
    summary="Redemptions in the ledger: one row per redemption, in order of pool and seq",
    filters=(Filter.BATCH, Filter.CLIENT, Filter.CUSTOMER, Filter.FROM, Filter.TO),
    columns=(
        "batch_id", "client_id", "code", "customer_id", "customer", "redeemed_at", "seq", "recorded_at", "api_key_id",
        "idempotency_key_hash", "redemption_id", "batch_name", "client_name", "attributes",
    ),
    query="""
SELECT r.batch_id, p.client_id, r.code, r.customer_id, r.customer_text AS customer, r.redeemed_at, r.seq, r.recorded_at,
  r.api_key_id, r.key_hash AS idempotency_key_hash, concat_ws(' ', i.id, r.batch_id, r.code) AS redemption_id,
  b.name AS batch_name, k.name AS client_name,
  (SELECT c.attributes::text FROM codes c WHERE c.pool_id = r.pool_id AND c.seq = r.seq) AS attributes
FROM redemptions r JOIN pools p ON p.id = r.pool_id JOIN batches b ON b.id = r.batch_id CROSS JOIN installation i
LEFT JOIN clients k ON k.id = p.client_id
WHERE ($1::uuid IS NULL OR r.pool_id = ANY(SELECT id FROM pools WHERE batch_id = $1))
  AND ($2::uuid IS NULL OR r.pool_id = ANY(SELECT id FROM pools WHERE client_id = $2))
  AND ($3::uuid IS NULL OR r.customer_id = $3)
  AND ($4::timestamptz IS NULL OR r.redeemed_at >= $4)
  AND ($5::timestamptz IS NULL OR r.redeemed_at < $5)
ORDER BY r.pool_id, r.seq""",
    shown={"redemption_id": _shown_redemption, "attributes": orjson.loads},
)  # fmt: skip

BATCHES: Final = Report(
    name="batches",
    summary="Batches, newest first, with the number of their codes and of those that are redeemed in the ledger. The "
    "times select by creation; with a client, only that client's codes are counted",
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

# $1 is folded without case: of the case-sensitive coupons, those that it reads like are found.
_CODE: Final = """
c.fully_folded = translate($1, 'oil', '011') AND (c.folded = $1 OR c.case_sensitive)"""

CONSUMPTIONS: Final = Report(
    name="consumptions",
    summary="Uses of coupons in the ledger: one row per use, in order of coupon and seq, with the terms at that time, "
    "and the time of its reversal, if it was reversed",
    filters=(Filter.CODE, Filter.CLIENT, Filter.CUSTOMER, Filter.FROM, Filter.TO),
    columns=(
        "consumption_id", "client_id", "code", "customer_id", "customer", "order_id", "consumed_at", "seq",
        "product_id", "promo_type", "discount_fixed", "currency", "discount_variable", "reversed_at", "recorded_at",
        "api_key_id", "idempotency_key_hash", "client_name",
    ),
    query=f"""
SELECT concat_ws(' ', u.pool_id, u.seq, replace(u.call_id::text, '-', '')) AS consumption_id, c.client_id, c.code,
  u.customer_id, u.customer_text AS customer, u.order_id, u.consumed_at, u.seq, t.terms->>'product_id' AS product_id,
  t.terms->>'promo_type' AS promo_type, t.terms->>'discount_fixed' AS discount_fixed,
  t.terms->>'currency' AS currency, t.terms->>'discount_variable' AS discount_variable, v.reversed_at, u.recorded_at,
  u.api_key_id, u.key_hash AS idempotency_key_hash, k.name AS client_name
FROM consumptions u JOIN coupons c ON c.pool_id = u.pool_id
LEFT JOIN clients k ON k.id = c.client_id
LEFT JOIN coupon_terms t ON t.pool_id = u.pool_id AND t.number = u.terms
LEFT JOIN reversals v ON v.pool_id = u.pool_id AND v.seq = u.seq
WHERE ($1::text IS NULL OR u.pool_id = ANY(SELECT pool_id FROM coupons c WHERE {_CODE}))
  AND ($2::uuid IS NULL OR u.pool_id = ANY(SELECT pool_id FROM coupons WHERE client_id = $2))
  AND ($3::uuid IS NULL OR u.customer_id = $3)
  AND ($4::timestamptz IS NULL OR u.consumed_at >= $4)
  AND ($5::timestamptz IS NULL OR u.consumed_at < $5)
ORDER BY u.pool_id, u.seq""",
    shown={"consumption_id": _shown_use},
)  # fmt: skip

COUPONS: Final = Report(
    name="coupons",
    summary="Coupons, newest first, including deleted ones, with the number of uses and reversals in the ledger. The "
    "times select by creation",
    filters=(Filter.CODE, Filter.CLIENT, Filter.FROM, Filter.TO),
    columns=(
        "client_id", "code", "expiry_date", "availability_count", "product_id", "promo_type", "discount_fixed",
        "currency", "discount_variable", "rules", "paused", "expired", "created_at", "updated_at", "deleted_at",
        "consumed", "reversed", "client_name",
    ),
    query=f"""
SELECT c.client_id, c.code, b.ends_at AS expiry_date, c.available AS availability_count, c.product_id, c.promo_type,
  c.discount_fixed::text AS discount_fixed, c.currency, c.discount_variable::text AS discount_variable,
  b.rules::text AS rules, b.paused, b.ended_at IS NOT NULL OR coalesce(b.ends_at <= now(), false) AS expired,
  b.created_at, c.updated_at, b.ended_at AS deleted_at,
  (SELECT count(*) FROM consumptions u WHERE u.pool_id = c.pool_id) AS consumed, c.reversed,
  k.name AS client_name
FROM coupons c JOIN batches b ON b.id = c.batch_id LEFT JOIN clients k ON k.id = c.client_id
WHERE ($1::text IS NULL OR {_CODE})
  AND ($2::uuid IS NULL OR c.client_id = $2)
  AND ($3::timestamptz IS NULL OR b.created_at >= $3)
  AND ($4::timestamptz IS NULL OR b.created_at < $4)
ORDER BY b.created_at DESC, b.id DESC""",
    shown={"rules": _shown_rules},
)  # fmt: skip

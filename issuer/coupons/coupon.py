"""A coupon as stored in Postgres, and its terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from issuer.batches.rules import NO_RULES, Rules, parse_rules
from issuer.instants import show_instant
from issuer.money import show_decimal
from issuer.pools.pool_rate import RATE_COLUMNS, RATE_JOIN, PoolRate

MAX_USES: Final = 10**12


class CouponError(Exception):
    """An operation on a coupon is refused; the message says why."""


class CouponNotFoundError(CouponError):
    """The coupon does not exist, or the caller may not see it."""


class CouponExistsError(CouponError):
    """The client has, or had, a coupon with this code or with one that look-ups read as the same."""


class CouponDeletedError(CouponError):
    """The coupon was deleted, which is final."""


class ManyClientsError(CouponError):
    """More than one client has a coupon with this code."""


@dataclass(frozen=True, slots=True)
class CouponTerms:
    """The changeable values of a coupon. `discount_fixed` requires a `currency`; `discount_variable` is a percentage.

    `product_id` None: valid for any product. `expires_at`: the first instant at which it is not valid; None: never.
    """

    available: int
    expires_at: datetime | None = None
    product_id: str | None = None
    promo_type: str | None = None
    discount_fixed: Decimal | None = None
    currency: str | None = None
    discount_variable: Decimal | None = None
    rules: Rules = NO_RULES
    paused: bool = False

    def for_use(self, code: str) -> dict[str, Any]:
        """Return the terms that a use returns and that its row in the ledger refers to."""
        return {
            "code": code,
            "product_id": self.product_id,
            "promo_type": self.promo_type,
            "discount_fixed": None if self.discount_fixed is None else show_decimal(self.discount_fixed),
            "currency": self.currency,
            "discount_variable": None if self.discount_variable is None else show_decimal(self.discount_variable),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all terms as the API and the audit log show them."""
        terms = self.for_use("")
        del terms["code"]
        return {
            "expiry_date": None if self.expires_at is None else show_instant(self.expires_at),
            "availability_count": self.available,
            **terms,
            "rules": self.rules.to_json(),
            "paused": self.paused,
        }

    def with_currency(self) -> CouponTerms:
        """Return the terms without a currency if they have no amount."""
        return self if self.discount_fixed is not None else replace(self, currency=None)


@dataclass(frozen=True, slots=True)
class Coupon:
    """One coupon."""

    id: UUID
    pool_id: int
    client_id: UUID
    client_name: str | None
    code: str
    case_sensitive: bool
    terms: CouponTerms
    reversed: int
    released: int
    terms_number: int
    ended_at: datetime | None
    created_at: datetime
    updated_at: datetime
    opened: bool
    final_issued: int | None
    rate: PoolRate

    @property
    def expired(self) -> bool:
        expires_at = self.terms.expires_at
        return self.ended_at is not None or (expires_at is not None and expires_at <= datetime.now(UTC))


COUPONS: Final = f"""
SELECT c.*, b.ends_at, b.ended_at, b.paused, b.rules, b.created_at, p.opened, p.final_issued, {RATE_COLUMNS},
  (SELECT name FROM clients WHERE clients.id = c.client_id) AS client_name
FROM coupons c JOIN batches b ON b.id = c.batch_id JOIN pools p ON p.id = c.pool_id
{RATE_JOIN}"""


def coupon_from_row(row: asyncpg.Record) -> Coupon:
    """Return the coupon of a row of COUPONS."""
    terms = CouponTerms(
        available=row["available"],
        expires_at=row["ends_at"],
        product_id=row["product_id"],
        promo_type=row["promo_type"],
        discount_fixed=row["discount_fixed"],
        currency=row["currency"],
        discount_variable=row["discount_variable"],
        rules=parse_rules(orjson.loads(row["rules"])),
        paused=row["paused"],
    )
    return Coupon(
        id=UUID(bytes=row["batch_id"].bytes),
        pool_id=row["pool_id"],
        client_id=UUID(bytes=row["client_id"].bytes),
        client_name=row["client_name"],
        code=row["code"],
        case_sensitive=row["case_sensitive"],
        terms=terms,
        reversed=row["reversed"],
        released=row["released"],
        terms_number=row["terms"],
        ended_at=row["ended_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        opened=row["opened"],
        final_issued=row["final_issued"],
        rate=PoolRate.of(row),
    )

"""Terms of a loyalty program: what is earned, when it expires, what a refund takes back, limits and tiers.

A version of the terms never changes. Points that were granted keep the expiry that the terms gave them then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from issuer.loyalty.bounds import MAX_POINTS
from issuer.money import MoneyError, from_minor, parse_amount, parse_currency, show_decimal, to_minor

POINTS: Final = "points"
"""The unit of a program that counts points; any other unit is a currency, counted in its minor units."""
MAX_PENDING_DAYS: Final = 366
MAX_EXPIRY: Final = {"days": 36_600, "months": 1_200, "end_of_year": 100}
MAX_TIERS: Final = 20
SHORTEST_MONTH: Final = 28
"""Days."""


class TermsError(ValueError):
    """The terms are not valid. The message names the field and says why."""


class EarnRate(NamedTuple):
    """`points` for every `per_minor` minor units of `currency`, rounded down."""

    points: int
    per_minor: int
    currency: str

    def earned_by(self, amount_minor: int) -> int:
        return amount_minor * self.points // self.per_minor


class ExpiryRule(StrEnum):
    NEVER = "never"
    DAYS = "days"
    MONTHS = "months"
    END_OF_YEAR = "end_of_year"


@dataclass(frozen=True, slots=True)
class Expiry:
    """When points expire after they were earned: `count` days, months, or at the end of the year `count` years on."""

    rule: ExpiryRule = ExpiryRule.NEVER
    count: int = 0


NO_EXPIRY: Final = Expiry()


class OnRefund(StrEnum):
    """What becomes of points that a refund takes back and that are spent already."""

    DEBT = "debt"
    CLAMP = "clamp"


class Tier(NamedTuple):
    name: str
    lifetime: int


@dataclass(frozen=True, slots=True)
class PointsLimits:
    """The most points in one entry, and of one member in a day of the program's time zone. None: no limit."""

    earn_entry: int | None = None
    earn_day: int | None = None
    spend_entry: int | None = None
    spend_day: int | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """One version of the terms. `earn` None: orders earn nothing by themselves. `tiers`: lowest first."""

    earn: EarnRate | None = None
    pending_days: int = 0
    expiry: Expiry = NO_EXPIRY
    on_refund: OnRefund = OnRefund.DEBT
    limits: PointsLimits = PointsLimits()
    min_spend: int = 1
    max_balance: int | None = None
    tiers: tuple[Tier, ...] = ()
    # Whether a person joins on the member page, with an address alone. If not, the till or the shop creates members.
    self_join: bool = True

    def tier(self, lifetime: int) -> str | None:
        """Return the name of the tier that a lifetime of earned points reaches; None: none."""
        return next((tier.name for tier in reversed(self.tiers) if tier.lifetime <= lifetime), None)

    def to_json(self) -> dict[str, Any]:
        """Return what `parse_terms` reads."""
        earn, rule = self.earn, self.expiry.rule
        return {
            "earn": None
            if earn is None
            else {
                "points": earn.points,
                "per": show_decimal(from_minor(earn.per_minor, earn.currency)),
                "currency": earn.currency,
            },
            "pending_days": self.pending_days,
            "expiry": None if rule is ExpiryRule.NEVER else {str(rule): self.expiry.count},
            "on_refund": str(self.on_refund),
            "limits": asdict(self.limits),
            "min_spend": self.min_spend,
            "max_balance": self.max_balance,
            "tiers": [{"name": tier.name, "lifetime": tier.lifetime} for tier in self.tiers],
            "self_join": self.self_join,
        }


_DEFAULTS: Final = Terms()
_FIELDS: Final = frozenset(_DEFAULTS.to_json())


def parse_terms(value: object, unit: str) -> Terms:
    """Return the terms that a JSON object states; fields that are missing have the defaults of Terms.

    `unit`: of the program. Where it is a currency, the earn rate is in the same one. Raises TermsError.
    """
    given = _object(value, "terms", _FIELDS)
    terms = Terms(
        earn=_earn(given.get("earn"), unit),
        pending_days=_integer(given.get("pending_days", 0), "pending_days", 0, MAX_PENDING_DAYS),
        expiry=_expiry(given.get("expiry")),
        on_refund=_on_refund(given.get("on_refund", OnRefund.DEBT)),
        limits=_limits(given.get("limits")),
        min_spend=_integer(given.get("min_spend", 1), "min_spend", 1),
        max_balance=_optional(given.get("max_balance"), "max_balance"),
        tiers=_tiers(given.get("tiers", [])),
        self_join=_flag(given.get("self_join", True), "self_join"),
    )
    _check_together(terms)
    return terms


def _check_together(terms: Terms) -> None:
    """Raise TermsError for terms that contradict each other: points that no member could spend."""
    for most in (terms.limits.spend_entry, terms.limits.spend_day):
        if most is not None and terms.min_spend > most:
            raise TermsError("min_spend must not be above the limits of spending")
    if terms.max_balance is not None and terms.min_spend > terms.max_balance:
        raise TermsError("min_spend must not be above max_balance")
    days = {ExpiryRule.DAYS: 1, ExpiryRule.MONTHS: SHORTEST_MONTH}.get(terms.expiry.rule)
    if days is not None and terms.pending_days > days * terms.expiry.count:
        raise TermsError("pending_days must not be above expiry: points would expire before they are available")


def _earn(value: object, unit: str) -> EarnRate | None:
    if value is None:
        return None
    given = _object(value, "earn", frozenset(("points", "per", "currency")))
    currency = given.get("currency", None if unit == POINTS else unit)
    if not isinstance(currency, str):
        raise TermsError("earn.currency must be a currency as ISO 4217 has it, such as EUR")
    per = given.get("per", "1")
    if not isinstance(per, str):
        raise TermsError('earn.per must be an amount in quotation marks, such as "1.00"')
    try:
        code = parse_currency(currency)
        per_minor = to_minor(parse_amount(per, code), code)
    except MoneyError as error:
        raise TermsError(f"earn: {error}") from error
    if unit not in (POINTS, code):
        raise TermsError(f"earn.currency must be {unit}, the unit of the program")
    return EarnRate(_integer(given.get("points"), "earn.points", 1), per_minor, code)


def _expiry(value: object) -> Expiry:
    if value is None:
        return NO_EXPIRY
    given = _object(value, "expiry", frozenset(MAX_EXPIRY))
    if len(given) != 1:
        raise TermsError("expiry must have one of days, months and end_of_year, or be null")
    ((rule, count),) = given.items()
    return Expiry(ExpiryRule(rule), _integer(count, f"expiry.{rule}", int(rule != "end_of_year"), MAX_EXPIRY[rule]))


def _on_refund(value: object) -> OnRefund:
    if not isinstance(value, str) or value not in list(OnRefund):
        raise TermsError("on_refund must be debt or clamp")
    return OnRefund(value)


def _limits(value: object) -> PointsLimits:
    if value is None:
        return PointsLimits()
    given = _object(value, "limits", frozenset(asdict(_DEFAULTS.limits)))
    return PointsLimits(**{name: _optional(most, f"limits.{name}") for name, most in given.items()})


def _tiers(value: object) -> tuple[Tier, ...]:
    if not isinstance(value, list) or len(value) > MAX_TIERS:
        raise TermsError(f"tiers must be an array of at most {MAX_TIERS} objects")
    tiers = []
    for one in value:
        given = _object(one, "tiers", frozenset(("name", "lifetime")))
        name = given.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 64:
            raise TermsError("tiers.name must have 1 to 64 characters")
        tiers.append(Tier(name, _integer(given.get("lifetime"), "tiers.lifetime", 0)))
    tiers.sort(key=lambda tier: tier.lifetime)
    if len({tier.name for tier in tiers}) < len(tiers) or len({tier.lifetime for tier in tiers}) < len(tiers):
        raise TermsError("tiers must differ in name and in lifetime")
    return tuple(tiers)


def _object(value: object, name: str, fields: frozenset[str]) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TermsError(f"{name} must be an object")
    unknown = sorted(set(value) - fields)
    if unknown:
        raise TermsError(f"{name} has no field {unknown[0]}")
    return value


def _integer(value: object, name: str, least: int, most: int = MAX_POINTS) -> int:
    # A bool is an int for Python, but not for JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise TermsError(f"{name} must be an integer from {least} to {most}")
    return value


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise TermsError(f"{name} must be true or false")
    return value


def _optional(value: object, name: str) -> int | None:
    return None if value is None else _integer(value, name, 1)

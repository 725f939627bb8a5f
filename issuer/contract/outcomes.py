"""The outcomes of a request for a code, and the one table outcome → HTTP. Failures are exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """The answers of redeem.lua, word for word; from NOT_READY on, the reasons why a call was not answered by it."""

    GRANTED = "GRANTED"
    REPLAYED = "REPLAYED"
    KEY_REUSED = "KEY_REUSED"
    UNKNOWN_BATCH = "UNKNOWN_BATCH"
    ENDED = "ENDED"
    PAUSED = "PAUSED"
    NOT_STARTED = "NOT_STARTED"
    REBUILDING = "REBUILDING"
    LIMIT_REACHED = "LIMIT_REACHED"
    SOLD_OUT = "SOLD_OUT"
    REFILLING = "REFILLING"
    BACKLOG_FULL = "BACKLOG_FULL"
    INCONSISTENT = "INCONSISTENT"
    WRONG_PRODUCT = "WRONG_PRODUCT"
    USABLE = "USABLE"
    NOT_READY = "NOT_READY"
    NOT_REPLICATED = "NOT_REPLICATED"
    OVERLOADED = "OVERLOADED"

    # An enum hashes its name in Python. Every request looks an outcome up in several dictionaries.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The HTTP response of an outcome. `error` is the plain string that integrations compare with."""

    status: int
    error: str
    code: str
    retry_after_s: int | None = None


HTTP: Final[dict[Outcome, HttpAnswer]] = {
    Outcome.KEY_REUSED: HttpAnswer(422, "idempotency key was used with another clientid", "idempotency_key_reused"),
    Outcome.UNKNOWN_BATCH: HttpAnswer(404, "no batch found", "batch_not_found"),
    Outcome.ENDED: HttpAnswer(410, "batch expired", "batch_expired"),
    Outcome.PAUSED: HttpAnswer(409, "batch paused", "batch_paused"),
    Outcome.NOT_STARTED: HttpAnswer(403, "batch not started", "batch_not_started"),
    Outcome.REBUILDING: HttpAnswer(503, "batch rules are being changed", "batch_rebuilding", 1),
    Outcome.LIMIT_REACHED: HttpAnswer(403, "rule conditions not met", "limit_reached"),
    Outcome.SOLD_OUT: HttpAnswer(404, "no code found", "sold_out"),
    Outcome.REFILLING: HttpAnswer(503, "pool refilling", "pool_refilling", 1),
    Outcome.BACKLOG_FULL: HttpAnswer(503, "backlog full", "backlog_full", 5),
    Outcome.INCONSISTENT: HttpAnswer(503, "pool inconsistent", "pool_inconsistent", 30),
    Outcome.NOT_READY: HttpAnswer(503, "not ready", "not_ready", 1),
    Outcome.NOT_REPLICATED: HttpAnswer(503, "not replicated", "not_replicated", 1),
    Outcome.OVERLOADED: HttpAnswer(503, "overloaded", "overloaded", 1),
}
"""Every outcome of a redemption except GRANTED and REPLAYED, which are 200 with the code."""

COUPON_HTTP: Final[dict[Outcome, HttpAnswer]] = HTTP | {
    Outcome.KEY_REUSED: HttpAnswer(422, "idempotency key was used with another order_id", "idempotency_key_reused"),
    Outcome.UNKNOWN_BATCH: HttpAnswer(404, "no coupon found", "coupon_not_found"),
    Outcome.ENDED: HttpAnswer(410, "coupon expired", "coupon_expired"),
    Outcome.PAUSED: HttpAnswer(409, "coupon paused", "coupon_paused"),
    Outcome.NOT_STARTED: HttpAnswer(403, "coupon not started", "coupon_not_started"),
    Outcome.REBUILDING: HttpAnswer(503, "coupon rules are being changed", "coupon_rebuilding", 1),
    Outcome.SOLD_OUT: HttpAnswer(409, "coupon used up", "coupon_used_up"),
    Outcome.WRONG_PRODUCT: HttpAnswer(409, "wrong product", "wrong_product"),
}
"""Every outcome of a consumption except GRANTED, REPLAYED, and USABLE, which only a look at a coupon has."""

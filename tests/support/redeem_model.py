"""A model of the scripts in Python: lists of redemptions, and decisions made from them.

The model shares no idea of storage with the scripts. It keeps every redemption of the past and counts; it has no
windows that are cut, no counters, no expiry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.support.redeeming import CouponState, ScriptAnswer, ScriptLimit, ScriptRequest


@dataclass(slots=True)
class ModelPool:
    """All codes in seq order, how many of them were loaded into Redis, and how many were issued."""

    id: int
    codes: list[str] = field(default_factory=list)
    loaded: int = 0
    issued: int = 0


@dataclass(slots=True)
class ModelBatch:
    limits: tuple[ScriptLimit, ...] = ()
    revision: int = 1
    ended: bool = False
    paused: bool = False
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    rebuilding: int | None = None
    coupon: CouponState | None = None
    pools: dict[UUID, ModelPool] = field(default_factory=dict)
    history: dict[UUID, list[int]] = field(default_factory=dict)
    kept: dict[tuple[UUID, str], tuple[UUID, str, str, ModelGrant]] = field(default_factory=dict)

    def refusal(self, now_ms: int) -> str | None:
        if self.ended or (self.ends_at_ms is not None and now_ms >= self.ends_at_ms):
            return "ENDED"
        if self.paused:
            return "PAUSED"
        if self.starts_at_ms is not None and now_ms < self.starts_at_ms:
            return "NOT_STARTED"
        return None if self.rebuilding is None else "REBUILDING"

    def allows(self, customer: UUID, at_ms: int) -> bool:
        """Return whether one more redemption at `at_ms` keeps every half-open window within its limit."""
        times = [*self.history.get(customer, ()), at_ms]
        return all(_busiest(times, limit.window_ms) <= limit.max for limit in self.limits)

    def retry_at(self, customer: UUID, now_ms: int) -> str:
        """Return the first moment at which `allows` is true again; '' if it never will be."""
        leaving = {
            time + limit.window_ms for time in self.history[customer] for limit in self.limits if limit.window_ms
        }
        moments = (moment for moment in sorted(leaving) if moment > now_ms and self.allows(customer, moment))
        return str(next(moments, ""))


def _busiest(times: Sequence[int], window_ms: int) -> int:
    """Return the most redemptions in any window [start, start + window_ms) that contains the newest of them."""
    newest = max(times)
    return len(times) if window_ms == 0 else sum(1 for time in times if newest - time < window_ms)


def _found(coupon: CouponState | None, request: ScriptRequest) -> bool:
    """Return whether the request wants what exists: a code of a batch, or a coupon by the right code."""
    if coupon is None or request.wish is None:
        return (coupon is None) == (request.wish is None)
    return coupon.folded in ("", request.wish.folded)


@dataclass(slots=True)
class ModelGrant:
    """One redemption as the event must have it. `serial` 0: the call that grants it has not ended."""

    pool_id: int
    seq: int
    code: str
    request: ScriptRequest
    at_ms: int
    epoch: int
    terms: int = 0
    serial: int = 0


@dataclass(slots=True)
class Decision:
    """The answers of a call and the redemptions it makes, in the order of pools and seqs. `serial`: of the first."""

    now_ms: int
    call_id: UUID
    epoch: int
    serial: int
    answers: list[ScriptAnswer] = field(default_factory=list)
    grants: list[ModelGrant] = field(default_factory=list)


@dataclass(slots=True)
class Model:
    """One partition. `host_ms` is the clock of the host, `clock_ms` the highest time that was used."""

    host_ms: int
    clock_ms: int = 0
    max_backlog: int = 1_000_000
    backlog: int = 0
    serial: int = 0
    beat: int = 0
    batches: dict[UUID, ModelBatch] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        return max(self.host_ms, self.clock_ms)

    def redeem(self, requests: Sequence[ScriptRequest], call_id: UUID, epoch: int) -> Decision:
        decision = Decision(self.now_ms, call_id, epoch, self.serial + 1)
        for request in requests:
            decision.answers.append(self._decide(request, decision))
        order = list(dict.fromkeys((request.batch, request.client) for request in requests))
        decision.grants.sort(key=lambda grant: (order.index((grant.request.batch, grant.request.client)), grant.seq))
        for grant in decision.grants:
            self.serial += 1
            grant.serial = self.serial
        if decision.grants:
            self.clock_ms = decision.now_ms
        return decision

    def _decide(self, request: ScriptRequest, decision: Decision) -> ScriptAnswer:
        batch, now_ms = self.batches.get(request.batch), decision.now_ms
        if batch is None or not _found(batch.coupon, request):
            return ScriptAnswer("UNKNOWN_BATCH")
        customer, pool = request.customer, batch.pools.get(request.client)
        if customer and request.key and (kept := batch.kept.get((customer, request.key))):
            client, order, code, grant = kept
            if (client, order) != (request.client, request.wish.order if request.wish else ""):
                return ScriptAnswer("KEY_REUSED")
            return ScriptAnswer("REPLAYED", code, (grant.pool_id, grant.seq, grant.at_ms, grant.epoch, grant.serial))
        if word := batch.refusal(now_ms):
            return ScriptAnswer(word)
        coupon, wish = batch.coupon, request.wish
        if coupon and wish and wish.product and coupon.product not in ("", wish.product):
            return ScriptAnswer("WRONG_PRODUCT")
        if customer and not batch.allows(customer, now_ms):
            return ScriptAnswer("LIMIT_REACHED", batch.retry_at(customer, now_ms))
        if pool is None:
            return ScriptAnswer("SOLD_OUT")
        if pool.issued >= (len(pool.codes) if coupon is None else coupon.total):
            return ScriptAnswer("SOLD_OUT")
        if coupon is None and pool.issued == pool.loaded:
            return ScriptAnswer("REFILLING")
        if self.backlog >= self.max_backlog:
            return ScriptAnswer("BACKLOG_FULL")
        if coupon and wish and wish.look:
            return ScriptAnswer("USABLE", f"{coupon.total - pool.issued} {coupon.terms}")
        return self._grant(request, batch, pool, decision)

    def _grant(self, request: ScriptRequest, batch: ModelBatch, pool: ModelPool, decision: Decision) -> ScriptAnswer:
        pool.issued += 1
        self.backlog += 1
        coupon = batch.coupon
        if coupon is None:
            code = pool.codes[pool.issued - 1]
            grant = ModelGrant(pool.id, pool.issued, code, request, decision.now_ms, decision.epoch)
        else:
            code = f"{pool.id} {pool.issued} {decision.call_id.hex} {coupon.number} {coupon.terms}"
            grant = ModelGrant(pool.id, pool.issued, "", request, decision.now_ms, decision.epoch, coupon.number)
        decision.grants.append(grant)
        if request.customer:
            batch.history.setdefault(request.customer, []).append(decision.now_ms)
            if request.key:
                order = request.wish.order if request.wish else ""
                batch.kept[request.customer, request.key] = (request.client, order, code, grant)
        return ScriptAnswer("GRANTED", code)

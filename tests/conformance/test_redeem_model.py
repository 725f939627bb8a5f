"""The scripts against a model of them: any difference is a failure.

Hypothesis generates the operations. The model sets the time: the scripts run on a frozen clock that steps both ways.
Set REDEEM_MODEL_EXAMPLES for a longer run; a failure prints the steps and a blob that repeats it.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from issuer.contract.keys import partition_tag
from tests.support.partition import Partition
from tests.support.prologues import frozen_clock
from tests.support.redeem_model import Decision, Model, ModelBatch, ModelPool
from tests.support.redeeming import CouponState, CouponWish, Result, ScriptCall, ScriptLimit, ScriptRequest
from tests.support.stores import FakeStore, ServerStore, Store

EXAMPLES: Final = {FakeStore: 4, ServerStore: 12} if os.environ.get("CI") else {FakeStore: 2, ServerStore: 6}
"""On fakeredis few, so that the unit tests stay quick: the servers are what the promises rest on."""
LONG_RUN: Final = 5
STEPS: Final = 40
AHEAD_MS: Final = 600_000
"""The frozen clock starts ahead of the server's own, which decides about expiry and must not catch up meanwhile."""
MINUTE_MS: Final = 60_000
BATCHES: Final = tuple(uuid.UUID(int=n) for n in (1, 2, 3))
"""The last one is never stored in Redis."""
COUPONS: Final = tuple(uuid.UUID(int=n) for n in (5, 6))
"""Each belongs to the first client."""
CLIENTS: Final = tuple(uuid.UUID(int=n) for n in (11, 12, 13))
"""The last one has no codes anywhere."""
CUSTOMERS: Final = tuple(uuid.UUID(int=n) for n in (21, 22, 23))

known_batches = st.sampled_from(BATCHES[:2])
all_known = st.sampled_from((*BATCHES[:2], *COUPONS))
clients_with_codes = st.sampled_from(CLIENTS[:2])
# Windows are minutes and more: the frozen clock cannot hold back the server's own expiry.
limit = st.builds(ScriptLimit, st.integers(1, 4), st.sampled_from([0, MINUTE_MS, 5 * MINUTE_MS, 60 * MINUTE_MS]))
limit_sets = st.lists(limit, max_size=3, unique_by=lambda one: one.window_ms).map(tuple)
minutes = st.sampled_from([-60, -1, 0, 1, 3, 60]).map(lambda count: count * MINUTE_MS)
# Most changes leave the batch open: a closed batch refuses before it looks at limits.
moments = st.none() | st.none() | st.none() | minutes


wishes = st.builds(
    CouponWish, st.sampled_from(("save", "save", "save", "sav3")), st.sampled_from(("", "", "shoe", "hat")),
    st.sampled_from(("", "order-1", "ö" * 255)), st.sampled_from((False, False, True)),
)  # fmt: skip

# The longest is longer than a byte can count.
texts = st.sampled_from((None, None, "anna", "夏" * 128))


@st.composite
def requests(draw: st.DrawFn) -> ScriptRequest:
    batch = draw(st.sampled_from((*BATCHES[:2], *BATCHES[:2], *BATCHES)))
    client = draw(st.sampled_from((*CLIENTS[:2], *CLIENTS[:2], *CLIENTS)))
    customer = draw(st.none() | st.sampled_from(CUSTOMERS) | st.sampled_from(CUSTOMERS))
    key = draw(st.sampled_from((None, None, "a", "b"))) if customer else None
    # One in eight wants a coupon where a batch is, or a code where a coupon is.
    wish = draw(wishes) if draw(st.integers(0, 7)) == 0 else None
    text = draw(texts) if customer else None
    return ScriptRequest(batch, client, customer, key, draw(st.sampled_from((0, 7, 2**31))), wish, customer_text=text)


@st.composite
def uses(draw: st.DrawFn) -> ScriptRequest:
    coupon = draw(st.sampled_from((*COUPONS, *COUPONS, *COUPONS, BATCHES[2])))
    customer = draw(st.none() | st.sampled_from(CUSTOMERS) | st.sampled_from(CUSTOMERS))
    wish = draw(st.none() | wishes) if draw(st.integers(0, 7)) == 0 else draw(wishes)
    # The route sends no key with a look.
    key = draw(st.sampled_from((None, None, "a", "b"))) if customer and not (wish and wish.look) else None
    text = draw(texts) if customer else None
    return ScriptRequest(coupon, CLIENTS[0], customer, key, draw(st.sampled_from((0, 7))), wish, customer_text=text)


class RedeemMachine(RuleBasedStateMachine):
    """Every rule does the same to the store and to the model, and compares what both return."""

    store: Store
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.client = self.store.connect()
        number = next(self.numbers)
        self.clock_key = f"test:{{{partition_tag(number)}}}:clock"
        self.partition = Partition(self.client, number, prologue=frozen_clock(self.clock_key))
        self.start_ms = time.time_ns() // 1_000_000
        self.model = Model(self.start_ms + AHEAD_MS)
        self.calls: dict[UUID, tuple[ScriptCall, Result]] = {}
        self.given: set[tuple[UUID, str]] = set()
        self.sizes: dict[bytes, int] = {}
        self.acked: list[tuple[bytes, int]] = []
        self.fresh_codes = itertools.count()

    def teardown(self) -> None:
        self.partition.remove()
        self.client.delete(self.clock_key)
        self.client.close()

    @initialize(limits=st.tuples(limit_sets, limit_sets), max_backlog=st.integers(3, 100))
    def begin(self, limits: tuple[tuple[ScriptLimit, ...], tuple[ScriptLimit, ...]], max_backlog: int) -> None:
        self.model.max_backlog = max_backlog
        self.client.set(self.clock_key, self.model.host_ms)
        assert self.partition.bless(max_backlog=max_backlog) == ["DONE"]
        # As if something had been redeemed just before: now is never before the start, however far the host steps back.
        self.client.hset(self.partition.keys.state, "clock", str(self.model.host_ms))
        self.model.clock_ms = self.model.host_ms
        for number, (batch_id, batch_limits) in enumerate(zip(BATCHES, limits, strict=False)):
            batch = self.model.batches[batch_id] = ModelBatch(batch_limits)
            assert self.put(batch_id) == ["DONE"]
            for client in CLIENTS[:2]:
                pool = batch.pools[client] = ModelPool(10 * number + CLIENTS.index(client) + 2**53)
                assert self.partition.open_pool(batch_id, client, pool.id) == ["DONE", "0", "0"]
                self.add_codes(batch_id, client, 20, 0)
        for number, (coupon_id, coupon_limits) in enumerate(zip(COUPONS, limits, strict=True)):
            state = CouponState(12, folded=("", "save")[number], product=("", "shoe")[number])
            coupon = self.model.batches[coupon_id] = ModelBatch(coupon_limits, coupon=state)
            assert self.put(coupon_id) == ["DONE"]
            pool = coupon.pools[CLIENTS[0]] = ModelPool(2**53 + 100 + number)
            assert self.partition.open_pool(coupon_id, CLIENTS[0], pool.id) == ["DONE", "0", "0"]

    def put(self, batch_id: UUID) -> list[str]:
        batch = self.model.batches[batch_id]
        return self.partition.put_batch(
            batch_id,
            batch.limits,
            revision=batch.revision,
            state="ended" if batch.ended else "open",
            paused=batch.paused,
            starts_at_ms=batch.starts_at_ms,
            ends_at_ms=batch.ends_at_ms,
            rebuilding=batch.rebuilding,
            coupon=batch.coupon,
        )

    @rule(wanted=st.lists(requests() | uses(), min_size=1, max_size=10), ahead_ms=st.sampled_from([0, 1, 2_000, 5_000]))
    def redeem(self, wanted: list[ScriptRequest], ahead_ms: int) -> None:
        self.send(ScriptCall(tuple(wanted), self.model.host_ms + ahead_ms, self.partition.epoch))

    @rule(
        batch_id=known_batches,
        client=clients_with_codes,
        customer=st.sampled_from(CUSTOMERS),
        steps_ms=st.lists(st.sampled_from([0, 0, 1, MINUTE_MS // 2, MINUTE_MS - 1, MINUTE_MS]), min_size=2, max_size=8),
    )
    def hammer(self, batch_id: UUID, client: UUID, customer: UUID, steps_ms: list[int]) -> None:
        """One customer redeems from one batch repeatedly, at the edges of the windows."""
        for step_ms in steps_ms:
            self.send(
                ScriptCall(
                    (ScriptRequest(batch_id, client, customer),), self.model.host_ms + 2_000, self.partition.epoch
                )
            )
            self.step_the_clock(step_ms)

    def send(self, call: ScriptCall) -> None:
        before = self.partition.snapshot()
        result = self.partition.redeem(call)
        decision = self.model.redeem(call.requests, call.call_id, call.epoch)
        assert result.status == "DONE"
        assert (result.now_ms, result.host_ms) == (decision.now_ms, self.model.host_ms)
        assert list(result.answers) == decision.answers
        assert [answer.fact for answer in result.answers] == [answer.fact for answer in decision.answers]
        assert (result.epoch, result.serial, result.facts) == (call.epoch, decision.serial, len(decision.grants))
        self.check_event(call, result, decision)
        if not decision.grants:
            assert self.partition.snapshot() == before
        self.calls[call.call_id] = (call, result)

    def check_event(self, call: ScriptCall, result: Result, decision: Decision) -> None:
        """Check that a call adds at most one entry to the stream, with its grants in order."""
        events = self.partition.events()
        new = [(entry_id, event) for entry_id, event in events if entry_id not in self.sizes]
        assert len(new) == (1 if decision.grants else 0)
        assert bool(result.data) == bool(decision.grants)
        for entry_id, event in new:
            self.sizes[entry_id] = event.count
            assert (event.epoch, event.serial, event.count) == (call.epoch, decision.serial, len(decision.grants))
            for redemption, grant in zip(event.redemptions, decision.grants, strict=True):
                assert redemption.pool_id == grant.pool_id
                assert (redemption.seq, redemption.code) == (grant.seq, grant.code)
                assert redemption.serial == grant.serial
                assert redemption.customer_id == grant.request.customer
                assert redemption.key_hash == grant.request.key_hash
                assert redemption.api_key_id == grant.request.api_key_id
                assert redemption.customer_text == grant.request.customer_text
                assert redemption.terms == grant.terms
                assert redemption.order_id == (grant.request.wish.order if grant.request.wish else "")
                assert (redemption.redeemed_at_ms, redemption.call_id) == (decision.now_ms, call.call_id)
                given = grant.code or str(grant.seq)
                assert (grant.request.batch, given) not in self.given
                self.given.add((grant.request.batch, given))

    @precondition(lambda self: self.calls)
    @rule(back=st.integers(1, 5))
    def repeat_a_call(self, back: int) -> None:
        """A call that granted something is recognised; any other is decided again, since it changed nothing."""
        call, first = list(self.calls.values())[-min(back, len(self.calls))]
        if call.epoch != self.partition.epoch:
            assert self.partition.redeem(call).status == "STALE_EPOCH"
        elif first.data:
            again = self.partition.redeem(call)
            assert (again.status, again.raw) == ("REPEATED", first.raw)
        elif self.model.host_ms <= call.deadline_ms <= self.model.host_ms + 5_000:
            self.send(call)

    @rule(
        wanted=st.lists(requests(), min_size=1, max_size=4), off_ms=st.sampled_from([-3_600_000, -1, 5_001, 3_600_000])
    )
    def redeem_past_the_deadline(self, wanted: list[ScriptRequest], off_ms: int) -> None:
        before = self.partition.snapshot()
        late = self.partition.redeem(ScriptCall(tuple(wanted), self.model.host_ms + off_ms, self.partition.epoch))
        assert (late.status, late.detail) == ("TOO_LATE", str(self.model.host_ms))
        assert self.partition.snapshot() == before

    @rule(wanted=st.lists(requests(), min_size=1, max_size=4), epoch=st.sampled_from([-1, 1, 100]))
    def redeem_with_another_epoch(self, wanted: list[ScriptRequest], epoch: int) -> None:
        before = self.partition.snapshot()
        call = ScriptCall(tuple(wanted), self.model.host_ms + 2_000, self.partition.epoch + epoch)
        stale = self.partition.redeem(call)
        assert (stale.status, stale.detail) == ("STALE_EPOCH", str(self.partition.epoch))
        assert self.partition.snapshot() == before

    @rule(wanted=st.lists(requests(), min_size=1, max_size=4), serials=st.integers(0, 2), beats=st.integers(0, 2))
    def redeem_or_beat_with_floors(self, wanted: list[ScriptRequest], serials: int, beats: int) -> None:
        """Data that are behind a floor are neither redeemed from nor raised, not even for a call that was made."""
        floors = (self.model.serial + serials, self.model.beat + beats)
        call = ScriptCall(tuple(wanted), self.model.host_ms + 2_000, self.partition.epoch, uuid.uuid4(), *floors)
        if serials or beats:
            before, found = self.partition.snapshot(), [str(self.model.serial), str(self.model.beat)]
            refused = self.partition.redeem(call)
            assert (refused.status, refused.detail) == ("BEHIND", " ".join(found))
            assert self.partition.beat(*floors) == ["BEHIND", *found]
            assert self.partition.snapshot() == before
        else:
            self.model.beat += 1
            assert self.partition.beat(*floors) == ["DONE", str(self.model.serial), str(self.model.beat)]
            self.send(call)

    @rule(
        step_ms=st.sampled_from(
            [1, 999, MINUTE_MS - 1, MINUTE_MS, 5 * MINUTE_MS, 60 * MINUTE_MS, -1, -MINUTE_MS, -7_200_000]
        )
    )
    def step_the_clock(self, step_ms: int) -> None:
        self.model.host_ms += step_ms
        self.client.set(self.clock_key, self.model.host_ms)

    @rule(batch_id=known_batches, client=clients_with_codes, count=st.integers(0, 6), held_back=st.integers(0, 3))
    def add_codes(self, batch_id: UUID, client: UUID, count: int, held_back: int) -> None:
        """Add codes; all but the last few (`held_back`) are loaded at once. A second loader is refused."""
        batch = self.model.batches[batch_id]
        pool = batch.pools[client]
        pool.codes += [f"code {next(self.fresh_codes)} ä€😀" for _ in range(count)]
        upto = max(pool.loaded, len(pool.codes) - held_back)
        codes, first, total = pool.codes[pool.loaded : upto], pool.loaded + 1, len(pool.codes)
        said = self.partition.load(batch_id, client, first, codes, total=total)
        if batch.ended:
            assert said == ["ENDED"]
            del pool.codes[len(pool.codes) - count :]
            return
        pool.loaded = upto
        assert said == ["DONE", str(pool.loaded), str(pool.issued), "0"]
        for wrong in (first if codes else pool.loaded, pool.loaded + 2):
            before = self.partition.snapshot()
            said = self.partition.load(batch_id, client, wrong, ["never"], total=total)
            assert said == ["OUT_OF_STEP", str(pool.loaded), str(pool.issued), "0"]
            assert self.partition.snapshot() == before

    @rule(
        coupon_id=st.sampled_from(COUPONS), total=st.integers(0, 40),
        product=st.sampled_from(("", "shoe", "hat")), value=st.integers(1, 99),
    )  # fmt: skip
    def change_coupon(self, coupon_id: UUID, total: int, product: str, value: int) -> None:
        batch = self.model.batches[coupon_id]
        assert batch.coupon is not None
        batch.revision += 1
        number, terms = batch.coupon.number + 1, f'{{"discount_fixed":"{value}.00"}}'
        batch.coupon = CouponState(total, number, batch.coupon.folded, product, terms)
        assert self.put(coupon_id) == ["DONE"]

    @rule(coupon_id=st.sampled_from(COUPONS), customer=st.sampled_from(CUSTOMERS), which=st.integers(0, 20))
    def reverse_a_use(self, coupon_id: UUID, customer: UUID, which: int) -> None:
        batch = self.model.batches[coupon_id]
        times = batch.history.get(customer, [])
        if batch.rebuilding is not None or batch.coupon is None or which >= len(times):
            return
        at_ms = times.pop(which)
        if not times:
            del batch.history[customer]
        for _ in range(2):  # the repeat changes nothing
            assert self.partition.return_uses(coupon_id, [(customer, at_ms, times.count(at_ms))])[0] == "DONE"
        batch.revision += 1
        coupon = batch.coupon
        batch.coupon = CouponState(coupon.total + 1, coupon.number, coupon.folded, coupon.product, coupon.terms)
        assert self.put(coupon_id) == ["DONE"]

    @rule(batch_id=all_known, paused=st.sampled_from((False, False, True)), starts=moments, ends=moments)
    def change_batch(self, batch_id: UUID, paused: bool, starts: int | None, ends: int | None) -> None:
        batch = self.model.batches[batch_id]
        batch.revision += 1
        batch.paused = paused
        batch.starts_at_ms = None if starts is None else self.model.now_ms + starts
        batch.ends_at_ms = None if ends is None else self.model.now_ms + ends
        assert self.put(batch_id) == ["DONE"]

    @rule(batch_id=all_known, sure=st.integers(0, 9))
    def end_batch(self, batch_id: UUID, sure: int) -> None:
        if sure == 0:
            self.model.batches[batch_id].revision += 1
            self.model.batches[batch_id].ended = True
            assert self.put(batch_id) == ["DONE"]

    @rule(batch_id=all_known)
    def put_an_old_revision(self, batch_id: UUID) -> None:
        revision = self.model.batches[batch_id].revision
        before = self.partition.snapshot()
        assert self.partition.put_batch(batch_id, revision=revision - 1) == ["SUPERSEDED", str(revision)]
        assert self.partition.snapshot() == before

    @rule(batch_id=all_known, limits=limit_sets)
    def begin_new_rules(self, batch_id: UUID, limits: tuple[ScriptLimit, ...]) -> None:
        batch = self.model.batches[batch_id]
        batch.revision += 1
        batch.limits, batch.rebuilding = limits, batch.revision
        assert self.put(batch_id) == ["DONE"]

    @precondition(lambda self: any(batch.rebuilding for batch in self.model.batches.values()))
    @rule()
    def finish_new_rules(self) -> None:
        """Write the windows from all redemptions of the past, then open the batch again."""
        for batch_id, batch in self.model.batches.items():
            if batch.rebuilding is None:
                continue
            windows = [(customer, *kept) for customer in CUSTOMERS if (kept := self.window(batch, customer))]
            late = self.partition.put_windows(batch_id, batch.rebuilding - 1, windows)
            assert late == ["SUPERSEDED", str(batch.rebuilding)]
            assert self.partition.put_windows(batch_id, batch.rebuilding, windows) == ["DONE"]
            batch.rebuilding = None
            assert self.put(batch_id) == ["DONE"]

    def window(self, batch: ModelBatch, customer: UUID) -> tuple[list[int], int] | None:
        """Return what put_windows writes for a customer: no more times than the limits can count."""
        times = batch.history.get(customer)
        if not times or not batch.limits:
            return None
        unbounded = any(limit.window_ms == 0 for limit in batch.limits)
        ends_at_ms = times[-1] + max(limit.window_ms for limit in batch.limits)
        if not unbounded and ends_at_ms <= self.model.now_ms:
            return None
        keep_ms = ends_at_ms - self.start_ms
        return times[-max(limit.max for limit in batch.limits) :], 0 if unbounded else keep_ms

    @rule(count=st.integers(0, 4))
    def ack(self, count: int) -> None:
        """Acknowledge the oldest entries, and some that were acknowledged before."""
        entries = [(entry_id, self.sizes[entry_id]) for entry_id, _ in self.partition.events()][:count]
        redemptions = sum(size for _, size in entries)
        assert self.partition.ack([*self.acked[-2:], *entries]) == ["DONE", str(len(entries)), str(redemptions)]
        self.acked += entries
        self.model.backlog -= redemptions

    @rule()
    def bless_again(self) -> None:
        self.partition.epoch += 1
        bound, backlog = self.model.max_backlog, self.model.backlog
        assert self.partition.bless(max_backlog=bound, backlog=backlog) == ["DONE"]

    @invariant()
    def redis_agrees(self) -> None:
        if not self.model.batches:
            return
        state = self.client.hgetall(self.partition.keys.state)
        assert int(state[b"clock"]) == self.model.clock_ms
        assert int(state[b"backlog"]) == self.model.backlog
        assert int(state[b"serial"]) == self.model.serial
        assert sum(event.count for _, event in self.partition.events()) == self.model.backlog
        for batch_id, batch in self.model.batches.items():
            names = self.partition.batch(batch_id)
            for client, pool in batch.pools.items():
                meta = [
                    int(value)
                    for value in self.client.execute_command(
                        "HMGET", names.pool(client), "id", "issued", "loaded", "total"
                    )
                ]
                loaded = pool.loaded if batch.coupon is None else pool.issued
                assert meta == [pool.id, pool.issued, loaded, len(pool.codes)]
                assert self.client.llen(names.codes(client)) == loaded - pool.issued
            self.check_expiry(batch_id, batch)

    def check_expiry(self, batch_id: UUID, batch: ModelBatch) -> None:
        """Check that no window expires while it still counts, by the script's clock."""
        if not batch.limits or batch.rebuilding is not None:
            return
        for customer, times in batch.history.items():
            expires_at_ms = self.client.execute_command("PEXPIRETIME", self.partition.window(batch_id, customer))
            longest_ms = max(limit.window_ms for limit in batch.limits)
            if any(limit.window_ms == 0 for limit in batch.limits):
                assert expires_at_ms == -1
            elif times[-1] + longest_ms > self.model.now_ms:
                assert expires_at_ms >= times[-1] + longest_ms


@pytest.fixture
def volatile(store: Store, tmp_path: Path) -> Iterator[Store]:
    """A store of the same kind that writes nothing to disk: the cases are about decisions, and they are many."""
    if isinstance(store, FakeStore):
        yield store
        return
    with store.another(tmp_path / "redis", {"appendonly": "no"}) as server:
        yield ServerStore(store.name, server)


@pytest.mark.parametrize("factor", [1, pytest.param(LONG_RUN, marks=(pytest.mark.long, pytest.mark.minutes))])
def test_scripts_do_what_the_model_says(volatile: Store, factor: int) -> None:
    machine = type("Machine", (RedeemMachine,), {"store": volatile, "numbers": itertools.count()})
    examples = int(os.environ.get("REDEEM_MODEL_EXAMPLES", factor * EXAMPLES[type(volatile)]))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Shares of slots: what one tenant takes leaves some to the others, and waiting tenants are served in turn."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from issuer.http.limiting.fair_slots import MAX_WAITING_OF_TENANT, FairSlots, Tenant
from issuer.http.problems.problem import ProblemError
from issuer.http.slot_kinds import SlotKind, SlotRefusal

A, B, C, D = ("a",), ("b",), ("c",), ("d",)
LONG_S = 60.0


class CountedSlots(FairSlots):
    def __init__(self, total: int, per_tenant: int | None = None) -> None:
        self.refused: Counter[SlotRefusal] = Counter()
        super().__init__(
            SlotKind.UPLOADS, total, lambda _, refusal: self.refused.update([refusal]), per_tenant=per_tenant
        )

    def take_all(self, tenant: Tenant) -> int:
        """Take as many slots as the tenant gets; return their number."""
        taken = 0
        while self.try_take(tenant) is None:
            taken += 1
        return taken


@pytest.mark.parametrize(
    ("total", "taken"),
    [(1, [1, 0]), (2, [1, 1, 0]), (3, [2, 1, 0]), (4, [2, 1, 1, 0]), (8, [4, 2, 1, 1]), (9, [5, 2, 1, 1])],
)
def test_one_tenant_leaves_slots_to_the_next(total: int, taken: list[int]) -> None:
    slots = CountedSlots(total)
    assert [slots.take_all(tenant) for tenant in (A, B, C, D)][: len(taken)] == taken


def test_a_refusal_says_whose_fault_it_is() -> None:
    slots = CountedSlots(3)
    assert slots.take_all(A) == 2
    assert slots.try_take(A) is SlotRefusal.SHARE
    assert slots.try_take(B) is None
    assert slots.try_take(C) is SlotRefusal.FULL
    assert slots.refused == {SlotRefusal.SHARE: 2, SlotRefusal.FULL: 1}
    for refusal, status, code in ((SlotRefusal.SHARE, 429, "share_used"), (SlotRefusal.FULL, 503, "overloaded")):
        problem = slots.problem(refusal)
        assert (problem.status, problem.code, problem.headers) == (status, code, {"Retry-After": "10"})


def test_a_bound_for_each_tenant_comes_on_top() -> None:
    slots = CountedSlots(100, per_tenant=3)
    assert [slots.take_all(tenant) for tenant in (A, B)] == [3, 3]


def test_an_address_has_a_share_of_the_share_of_its_client() -> None:
    slots = CountedSlots(12)
    assert slots.take_all(("client", "one address")) == 4
    assert slots.try_take(("client", "another address")) is None
    assert slots.take_all(("other client", "one address")) > 0


def test_slots_that_are_released_are_free_again() -> None:
    slots = CountedSlots(2)
    for _ in range(3):
        assert slots.try_take(A) is None
        slots.release(A)
    assert slots.used == 0


async def hold(slots: FairSlots, tenant: Tenant, log: list[Tenant], until: asyncio.Event) -> None:
    async with slots.hold(tenant, wait_s=LONG_S):
        log.append(tenant)
        await until.wait()


async def test_a_slot_that_is_released_while_its_next_holder_gives_up_stays_free() -> None:
    slots, never = CountedSlots(1), asyncio.Event()
    assert slots.try_take(A) is None
    waiting = [asyncio.create_task(hold(slots, tenant, [], never)) for tenant in (B, C)]
    await turns()
    waiting[0].cancel()
    slots.release(A)
    await asyncio.gather(waiting[0], return_exceptions=True)
    await turns()
    assert slots.used == 1
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    assert slots.used == 0
    assert slots.try_take(B) is None


async def turns(count: int = 5) -> None:
    """Let every task run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_slot_is_passed_on_to_the_tenant_that_holds_the_fewest() -> None:
    slots = CountedSlots(2)
    log: list[Tenant] = []
    arrivals = (A, B, A, A, B, C)
    ends = [asyncio.Event() for _ in arrivals]
    tasks = [asyncio.create_task(hold(slots, tenant, log, end)) for tenant, end in zip(arrivals, ends, strict=True)]
    await turns()
    assert log == [A, B]
    ends[1].set()
    await turns()
    assert log == [A, B, B], "the next one of A would be the second of A"
    ends[0].set()
    await turns()
    assert log == [A, B, B, A], "A came before C"
    ends[2].set()
    await turns()
    assert log == [A, B, B, A, C], "A was served last"
    for end in ends:
        end.set()
    await asyncio.gather(*tasks)
    assert (len(log), slots.used, slots.refused) == (6, 0, {})


async def test_a_wait_that_is_too_long_ends_in_a_refusal() -> None:
    slots = CountedSlots(1)
    assert slots.try_take(A) is None
    for wait_s in (0.0, 0.01):
        with pytest.raises(ProblemError, match="too many uploads at once") as refused:
            async with slots.hold(B, wait_s=wait_s):
                raise AssertionError("unreachable")
        assert refused.value.status == 503
    slots.release(A)
    async with slots.hold(B):
        assert slots.used == 1
    assert slots.refused == {SlotRefusal.FULL: 2}


async def test_the_line_of_a_tenant_is_bounded() -> None:
    slots, never = CountedSlots(1), asyncio.Event()
    async with slots.hold(A):
        waiting = [asyncio.create_task(hold(slots, A, [], never)) for _ in range(MAX_WAITING_OF_TENANT)]
        await turns()
        with pytest.raises(ProblemError):
            async with slots.hold(A, wait_s=LONG_S):
                raise AssertionError("unreachable")
        one_more = asyncio.create_task(hold(slots, B, [], never))
        await turns()
        assert not one_more.done()
        for task in (*waiting, one_more):
            task.cancel()
        await asyncio.gather(*waiting, one_more, return_exceptions=True)
    assert slots.used == 0


async def test_a_slot_passed_on_to_one_that_was_cancelled_is_not_lost() -> None:
    slots, never = CountedSlots(1), asyncio.Event()
    assert slots.try_take(A) is None
    waiting = asyncio.create_task(hold(slots, B, [], never))
    await turns()
    slots.release(A)
    assert slots.used == 1, "it is passed on at once"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert slots.used == 0

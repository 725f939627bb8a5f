"""redeem.lua on coupons: what is found, what is refused, what is numbered and what is repeated."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

import pytest

from tests.support.partition import Partition
from tests.support.redeeming import CouponState, CouponWish, ScriptAnswer, ScriptRequest
from tests.support.script_shop import BATCH, CLIENT, POOL_ID, call_of

COUPON: Final = CouponState(3, number=7, folded="save", product="shoe", terms='{"discount_fixed":"5.00"}')


@pytest.fixture
def coupon(partition: Partition) -> Partition:
    """A coupon with three uses, for the product "shoe"."""
    partition.put_batch(BATCH, coupon=COUPON)
    partition.open_pool(BATCH, CLIENT, POOL_ID)
    return partition


def use(key: str | None = None, wish: CouponWish | None = None) -> ScriptRequest:
    return ScriptRequest(BATCH, CLIENT, uuid.uuid4(), key, wish=wish or CouponWish())


def test_uses_are_numbered_and_carry_the_terms(coupon: Partition) -> None:
    call = call_of(coupon, use(wish=CouponWish(order="order-1")), use(), use(), use())
    result = coupon.redeem(call)
    details = [f"{POOL_ID} {number} {call.call_id.hex} 7 {COUPON.terms}" for number in (1, 2, 3)]
    assert result.answers == (*(ScriptAnswer("GRANTED", detail) for detail in details), ScriptAnswer("SOLD_OUT"))
    ((_, event),) = coupon.events()
    assert [(one.seq, one.terms, one.code, one.order_id) for one in event.redemptions] == [
        (1, 7, "", "order-1"), (2, 7, "", ""), (3, 7, "", ""),
    ]  # fmt: skip


def test_a_repeated_key_returns_the_use_of_the_same_order(coupon: Partition) -> None:
    request = use("key", CouponWish(order="order-1"))
    granted = coupon.redeem_now(request).answers[0]
    coupon.put_batch(BATCH, revision=2, paused=True, coupon=COUPON)
    other = replace(request, wish=CouponWish(order="order-2"))
    assert coupon.redeem_now(request, other).answers == (
        ScriptAnswer("REPLAYED", granted.detail), ScriptAnswer("KEY_REUSED"),
    )  # fmt: skip


@pytest.mark.parametrize("wish", [None, CouponWish(folded="sav3"), CouponWish(folded="sav3", look=True)])
def test_neither_the_wrong_kind_nor_the_wrong_code_finds_a_coupon(coupon: Partition, wish: CouponWish | None) -> None:
    before = coupon.snapshot()
    request = ScriptRequest(BATCH, CLIENT, uuid.uuid4(), wish=wish)
    assert coupon.redeem_now(request).answers == (ScriptAnswer("UNKNOWN_BATCH"),)
    assert coupon.snapshot() == before


def test_a_batch_of_codes_is_no_coupon(shop: Partition) -> None:
    assert shop.redeem_now(use()).answers == (ScriptAnswer("UNKNOWN_BATCH"),)


def test_a_coupon_for_one_product_refuses_another(coupon: Partition) -> None:
    wishes = (CouponWish(product="hat"), CouponWish(product="shoe"), CouponWish())
    answers = coupon.redeem_now(*(use(wish=wish) for wish in wishes)).answers
    assert [answer.word for answer in answers] == ["WRONG_PRODUCT", "GRANTED", "GRANTED"]


def test_a_look_changes_nothing(coupon: Partition) -> None:
    coupon.redeem_now(use())
    before = coupon.snapshot()
    look = use(wish=CouponWish(look=True))
    assert coupon.redeem_now(look, look).answers == (ScriptAnswer("USABLE", f"2 {COUPON.terms}"),) * 2
    assert coupon.snapshot() == before


def test_a_coupon_whose_pool_is_not_opened_yet_is_not_used_up(partition: Partition) -> None:
    partition.put_batch(BATCH, coupon=COUPON)
    assert partition.redeem_now(use()).answers == (ScriptAnswer("REFILLING"),)

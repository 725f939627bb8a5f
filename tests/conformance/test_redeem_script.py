"""redeem.lua: repeats, failures at every point, and the largest and longest values."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

import pytest
import redis

from issuer.contract import scripts
from tests.conformance.gaps import Gap, servers_only
from tests.support.partition import ANSWER_KEPT_MS, Partition
from tests.support.prologues import broken_off
from tests.support.redeeming import ScriptAnswer, ScriptCall, ScriptLimit, ScriptRequest
from tests.support.script_shop import BATCH, CLIENT, MONTH_MS, OTHER_CLIENT, call_of, new_customer, stock

WRITES_OF_A_REDEMPTION: Final = 7
"""XADD, LPOP, kept call, kept answer, window, state, pool."""


def key_named(partition: Partition, name: str, call: ScriptCall) -> str | bytes:
    names, request = partition.batch(BATCH), call.requests[0]
    assert request.customer
    assert request.key_hash
    keys: dict[str, str | bytes] = {
        "state": partition.keys.state,
        "stream": partition.keys.stream,
        "call": partition.keys.call(call.call_id.hex),
        "batch": names.batch,
        "pool": names.pool(CLIENT),
        "codes": names.codes(CLIENT),
        "window": partition.window(BATCH, request.customer),
        "answer": names.idempotency_prefix + request.key_hash,
    }
    return keys[name]


@pytest.mark.parametrize("name", ["state", "stream", "call", "batch", "pool", "codes", "window", "answer"])
def test_a_key_of_another_type_fails_before_any_write(shop: Partition, name: str) -> None:
    call = call_of(shop, new_customer("key"), new_customer())
    key = key_named(shop, name, call)
    shop.client.delete(key)
    shop.client.zadd(key, {"not": 1})
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        shop.redeem(call)
    assert shop.snapshot() == before


@pytest.mark.parametrize("writes", range(WRITES_OF_A_REDEMPTION + 1))
def test_a_script_that_breaks_off_issues_no_code_twice(client: redis.Redis, writes: int) -> None:
    """Every prefix of the writes. (LPOP behind XADD cannot fail: the list was just read. So prefix 1 cannot occur.)"""
    shop, broken = Partition(client, 5), Partition(client, 5, prologue=broken_off(writes))
    shop.bless()
    stock(shop)
    before = shop.snapshot()
    call = call_of(shop, new_customer("key"))
    if writes == WRITES_OF_A_REDEMPTION:
        assert broken.redeem(call).answers == (ScriptAnswer("GRANTED", "code-1"),)
    else:
        with pytest.raises(redis.ResponseError, match="broken off"):
            broken.redeem(call)
    assert (shop.snapshot() == before) is (writes == 0)
    in_stream = [redemption.code for _, event in shop.events() for redemption in event.redemptions]
    assert in_stream == ([] if writes == 0 else ["code-1"])
    if writes == 1:
        return
    if writes >= 3:
        assert shop.redeem(call).status == "REPEATED"
    if writes >= 4:
        again = call_of(shop, call.requests[0])
        assert shop.redeem(again).answers == (ScriptAnswer("REPLAYED", "code-1"),)
    later = shop.redeem_now(new_customer()).answers[0]
    if 2 <= writes < WRITES_OF_A_REDEMPTION:
        assert later == ScriptAnswer("INCONSISTENT")
    else:
        assert later == ScriptAnswer("GRANTED", "code-1" if writes == 0 else "code-2")


def test_a_repeated_call_returns_its_event_until_that_is_in_the_ledger(shop: Partition) -> None:
    call = call_of(shop, new_customer(), new_customer())
    first = shop.redeem(call)
    again = shop.redeem(call)
    assert (again.status, again.raw, again.data) == ("REPEATED", first.raw, first.data)
    assert first.data
    entry_id, _ = shop.events()[-1]
    shop.ack([(entry_id, 2)])
    late = shop.redeem(call)
    assert (late.status, late.raw, late.data) == ("REPEATED", first.raw, b"")


def test_data_behind_a_floor_answer_nothing_not_even_a_repeated_call(shop: Partition) -> None:
    call = call_of(shop, new_customer("key"))
    assert shop.redeem(call).serial == 1
    shop.beat()
    before = shop.snapshot()
    for floors in ((2, 0), (0, 2)):
        for late in (call, replace(call, call_id=uuid.uuid4())):
            refused = shop.redeem(replace(late, serial_floor=floors[0], beat_floor=floors[1]))
            assert (refused.status, refused.detail) == ("BEHIND", "1 1")
    assert shop.snapshot() == before
    assert shop.redeem(replace(call, serial_floor=1, beat_floor=1)).status == "REPEATED"


def test_a_call_of_another_epoch_changes_nothing_not_even_when_it_is_repeated(shop: Partition) -> None:
    call = call_of(shop, new_customer("key"))
    shop.redeem(call)
    before = shop.snapshot()
    for other in (call, replace(call, call_id=uuid.uuid4())):
        refused = shop.redeem(replace(other, epoch=shop.epoch + 1))
        assert (refused.status, refused.detail) == ("STALE_EPOCH", "1")
    assert shop.snapshot() == before


def test_a_forgotten_script_is_loaded_again(shop: Partition) -> None:
    """SCRIPT FLUSH concerns the whole server; every caller of a shared one loads a script that is missing."""
    shop.redeem_now(new_customer())
    shop.client.script_flush()
    assert shop.redeem_now(new_customer()).answers == (ScriptAnswer("GRANTED", "code-2"),)


def test_a_pool_named_twice_issues_nothing(shop: Partition) -> None:
    keys, args = shop.encode(call_of(shop, new_customer(), new_customer()))
    names = shop.batch(BATCH)
    keys[4:6] = [names.pool(CLIENT), names.pool(CLIENT), names.codes(CLIENT), names.codes(CLIENT)]
    args[6:8] = [b"\0\1\0\1", b"\0\1\0\0\0\2\0\0"]
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="named twice"):
        shop.run(scripts.REDEEM, keys, args)
    assert shop.snapshot() == before


def test_a_caller_that_is_bound_to_a_client_sees_no_batch_without_a_pool_of_it(shop: Partition) -> None:
    shop.put_batch(BATCH, revision=2, paused=True)
    answers = shop.redeem_now(
        ScriptRequest(BATCH, OTHER_CLIENT, None), ScriptRequest(BATCH, OTHER_CLIENT, None, bound=True),
        ScriptRequest(BATCH, CLIENT, None, bound=True),
    ).answers  # fmt: skip
    assert [answer.word for answer in answers] == ["PAUSED", "UNKNOWN_BATCH", "PAUSED"]


@pytest.mark.parametrize("seq", [2**31, 2**40, 2**53 - 3])
def test_large_numbers_keep_every_digit(partition: Partition, seq: int) -> None:
    pool_id, total = 2**62 + 1, seq + 2
    partition.put_batch(BATCH)
    assert partition.open_pool(BATCH, CLIENT, pool_id, issued=seq, total=total) == ["DONE", str(seq), str(seq)]
    assert partition.load(BATCH, CLIENT, seq + 1, ["a", "b"], total=total) == ["DONE", str(total), str(seq), "0"]
    request = new_customer("key")
    assert partition.redeem_now(request, new_customer()).answers == (
        ScriptAnswer("GRANTED", "a"), ScriptAnswer("GRANTED", "b"),
    )  # fmt: skip
    ((_, event),) = partition.events()
    assert [(one.pool_id, one.seq) for one in event.redemptions] == [(pool_id, seq + 1), (pool_id, seq + 2)]
    assert partition.redeem_now(request).answers == (ScriptAnswer("REPLAYED", "a"),)
    assert partition.redeem_now(new_customer()).answers == (ScriptAnswer("SOLD_OUT"),)


@pytest.mark.long
@servers_only(Gap.SPEED)
def test_a_call_of_thousands(partition: Partition) -> None:
    """The longest codes there are, seqs beyond 2^31, pool ids beyond 2^53, windows and answers in several pieces."""
    first, count, pool_id = 2**40, 5_000, 2**62 + 1
    codes = [f"{seq:04d}".ljust(255, "😀") for seq in range(count)]
    partition.put_batch(BATCH, [ScriptLimit(1, MONTH_MS)])
    partition.put_batch(uuid.UUID(int=9), [ScriptLimit(1, 0)])
    total = first + count
    assert partition.open_pool(BATCH, CLIENT, pool_id, issued=first, total=total) == ["DONE", str(first), str(first)]
    assert partition.load(BATCH, CLIENT, first + 1, codes, total=total) == ["DONE", str(total), str(first), "0"]
    call = call_of(partition, *(new_customer(f"key {number}") for number in range(count)))
    assert partition.redeem(call).answers == tuple(ScriptAnswer("GRANTED", code) for code in codes)
    ((_, event),) = partition.events()
    assert [redemption.seq for redemption in event.redemptions] == list(range(first + 1, total + 1))
    assert {redemption.pool_id for redemption in event.redemptions} == {pool_id}
    again = call_of(partition, *call.requests)
    assert partition.redeem(again).answers == tuple(ScriptAnswer("REPLAYED", code) for code in codes)
    keyless = [ScriptRequest(BATCH, CLIENT, request.customer) for request in call.requests]
    assert {answer.word for answer in partition.redeem(call_of(partition, *keyless)).answers} == {"LIMIT_REACHED"}
    window = partition.client.pttl(partition.window(BATCH, call.requests[-1].customer or BATCH))
    assert MONTH_MS - 60_000 < window <= MONTH_MS + 1_000
    kept = partition.batch(BATCH).idempotency_prefix + (call.requests[-1].key_hash or b"")
    assert ANSWER_KEPT_MS - 60_000 < partition.client.pttl(kept) <= ANSWER_KEPT_MS

"""put_batch.lua, put_windows.lua, put_answers.lua and return_uses.lua: each status, and what each leaves behind."""

from __future__ import annotations

import time
import uuid

from issuer.contract import scripts
from tests.support.partition import Partition
from tests.support.redeeming import CouponState, CouponWish, ScriptAnswer, ScriptLimit, ScriptRequest
from tests.support.script_shop import BATCH, CLIENT, MONTH_MS, POOL_ID, new_customer, refuses_another_epoch


def test_put_batch(partition: Partition) -> None:
    assert partition.put_batch(BATCH, revision=2) == ["DONE"]
    assert partition.put_batch(BATCH, revision=2, paused=True) == ["DONE"]
    assert partition.redeem_now(new_customer()).answers == (ScriptAnswer("PAUSED"),)
    assert partition.put_batch(BATCH, revision=1) == ["SUPERSEDED", "2"]
    assert partition.redeem_now(new_customer()).answers == (ScriptAnswer("PAUSED"),)
    refuses_another_epoch(partition, lambda: partition.put_batch(BATCH, revision=3))


def test_put_batch_does_not_close_what_was_rebuilt(partition: Partition) -> None:
    assert partition.put_batch(BATCH, revision=2, rebuilding=2) == ["DONE"]
    assert partition.put_batch(BATCH, revision=2, rebuilding=2) == ["DONE"]
    assert partition.put_batch(BATCH, revision=2) == ["DONE"]
    before = partition.snapshot()
    assert partition.put_batch(BATCH, revision=2, rebuilding=2) == ["REBUILT"]
    assert partition.snapshot() == before
    assert partition.put_batch(BATCH, revision=3, rebuilding=3) == ["DONE"]


def test_put_windows(shop: Partition) -> None:
    one, now_ms = uuid.uuid4(), time.time_ns() // 1_000_000
    windows = [(one, [now_ms - 5, now_ms], MONTH_MS)]
    assert shop.put_windows(BATCH, 2, windows) == ["SUPERSEDED", ""]
    assert shop.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)], revision=2, rebuilding=2) == ["DONE"]
    assert shop.redeem_now(ScriptRequest(BATCH, CLIENT, one)).answers == (ScriptAnswer("REBUILDING"),)
    assert shop.put_windows(BATCH, 3, windows) == ["SUPERSEDED", "2"]
    assert shop.put_windows(BATCH, 2, windows) == ["DONE"]
    refuses_another_epoch(shop, lambda: shop.put_windows(BATCH, 2, windows))
    assert shop.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)], revision=2) == ["DONE"]
    refused = shop.redeem_now(ScriptRequest(BATCH, CLIENT, one))
    assert refused.answers == (ScriptAnswer("LIMIT_REACHED", str(now_ms - 5 + MONTH_MS)),)


def test_windows_without_expiry(shop: Partition) -> None:
    permanent, month, now_ms = uuid.uuid4(), uuid.uuid4(), time.time_ns() // 1_000_000
    shop.put_batch(BATCH, [ScriptLimit(2, 0)], revision=2, rebuilding=2)
    assert shop.put_windows(BATCH, 2, [(permanent, [now_ms], 0), (month, [now_ms], MONTH_MS)]) == ["DONE"]
    assert shop.client.pttl(shop.window(BATCH, permanent)) == -1
    assert MONTH_MS - 60_000 < shop.client.pttl(shop.window(BATCH, month)) <= MONTH_MS


def test_put_answers(partition: Partition) -> None:
    assert partition.put_answers([(b"one", b"1", MONTH_MS), (b"two", b"2", MONTH_MS)]) == ["DONE"]
    assert partition.client.get(f"{partition.keys.prefix}two") == b"2"
    assert MONTH_MS - 60_000 < partition.client.pttl(f"{partition.keys.prefix}two") <= MONTH_MS
    refuses_another_epoch(partition, lambda: partition.put_answers([(b"one", b"3", MONTH_MS)]))


def test_return_uses(partition: Partition) -> None:
    """As many entries as were reversed leave the window; the expiry of the window stays."""
    partition.put_batch(BATCH, [ScriptLimit(3, MONTH_MS)], coupon=CouponState(10))
    partition.open_pool(BATCH, CLIENT, POOL_ID)
    customer = uuid.uuid4()
    use = ScriptRequest(BATCH, CLIENT, customer, wish=CouponWish())
    used = partition.redeem_now(use, use, use)
    assert partition.redeem_now(use).answers[0].word == "LIMIT_REACHED"
    expires_at_ms = partition.client.execute_command("PEXPIRETIME", partition.window(BATCH, customer))
    assert partition.return_uses(BATCH, [(customer, used.now_ms, 1)]) == ["DONE", "2"]
    before = partition.snapshot()
    assert partition.return_uses(BATCH, [(customer, used.now_ms, 1), (uuid.uuid4(), 1, 0)]) == ["DONE", "0"]
    assert partition.snapshot() == before
    assert partition.client.execute_command("PEXPIRETIME", partition.window(BATCH, customer)) == expires_at_ms
    assert [answer.word for answer in partition.redeem_now(use, use, use).answers] == [
        "GRANTED", "GRANTED", "LIMIT_REACHED",
    ]  # fmt: skip
    refuses_another_epoch(partition, lambda: partition.return_uses(BATCH, [(customer, used.now_ms, 0)]))


def test_a_revision_is_recognised_by_its_token(partition: Partition) -> None:
    def put(revision: int, token: str) -> list[bytes]:
        names: list[str | bytes] = [partition.keys.state, partition.batch(BATCH).batch]
        args: list[str | bytes | int] = [partition.epoch, revision, "open", 0, "", "", "", "", "", token]
        return partition.run(scripts.PUT_BATCH, names, args)

    assert put(2, "a") == [b"DONE", b""]
    assert put(2, "a") == [b"DONE", b""]
    before = partition.snapshot()
    for revision in (1, 2):
        assert put(revision, "b") == [b"SUPERSEDED", b"2", b"a"]
    assert partition.snapshot() == before
    assert put(3, "c") == [b"DONE", b"a"]
    # A recovery writes what Postgres has.
    partition.epoch = -2
    assert partition.bless() == ["DONE"]
    assert put(1, "d") == [b"DONE", b"c"]

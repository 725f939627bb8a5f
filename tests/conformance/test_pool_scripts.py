"""open_pool.lua, load_codes.lua, rebuild_pool.lua and empty_pool.lua: each status, and what each leaves behind."""

from __future__ import annotations

from tests.support.partition import Partition
from tests.support.redeeming import ScriptAnswer
from tests.support.script_shop import (
    BATCH,
    CLIENT,
    OTHER_CLIENT,
    POOL_ID,
    codes_of,
    new_customer,
    refuses_another_epoch,
)


def test_open_pool(partition: Partition) -> None:
    assert partition.open_pool(BATCH, CLIENT, 7) == ["UNKNOWN_BATCH"]
    partition.put_batch(BATCH)
    assert partition.open_pool(BATCH, CLIENT, 7, issued=40, total=50) == ["DONE", "40", "40"]
    assert partition.load(BATCH, CLIENT, 41, ["a"], total=50) == ["DONE", "41", "40", "0"]
    assert partition.open_pool(BATCH, CLIENT, 7, issued=40, total=50) == ["DONE", "41", "40"]
    assert codes_of(partition) == [b"a"]
    assert partition.open_pool(BATCH, CLIENT, 7, issued=43, total=50) == ["DONE", "43", "43"]
    assert codes_of(partition) == []
    assert partition.load(BATCH, CLIENT, 44, ["b"], total=50) == ["OUT_OF_STEP", "43", "43", "1"]
    assert partition.load(BATCH, CLIENT, 44, ["b"], total=50, resets=1) == ["DONE", "44", "43", "1"]
    refuses_another_epoch(partition, lambda: partition.open_pool(BATCH, OTHER_CLIENT, 8))
    partition.put_batch(BATCH, revision=2, state="ended")
    assert partition.open_pool(BATCH, OTHER_CLIENT, 8) == ["ENDED"]


def test_load_codes(partition: Partition) -> None:
    assert partition.load(BATCH, CLIENT, 1, ["a"], total=1) == ["UNKNOWN_BATCH"]
    partition.put_batch(BATCH)
    assert partition.load(BATCH, CLIENT, 1, ["a"], total=1) == ["NO_POOL"]
    partition.open_pool(BATCH, CLIENT, POOL_ID, total=3)
    assert partition.load(BATCH, CLIENT, 1, ["a", "b"], total=3) == ["DONE", "2", "0", "0"]
    assert partition.load(BATCH, CLIENT, 1, ["a", "b"], total=3) == ["OUT_OF_STEP", "2", "0", "0"]
    assert partition.load(BATCH, CLIENT, 4, ["d"], total=3) == ["OUT_OF_STEP", "2", "0", "0"]
    assert partition.load(BATCH, CLIENT, 3, [], total=9_001) == ["DONE", "2", "0", "0"]
    many = [f"m{seq}" for seq in range(3, 9_002)]
    assert partition.load(BATCH, CLIENT, 3, many, total=3) == ["DONE", "9001", "0", "0"]
    assert codes_of(partition) == [b"a", b"b", *(code.encode() for code in many)]
    assert partition.client.hget(partition.batch(BATCH).pool(CLIENT), "total") == b"9001"
    refuses_another_epoch(partition, lambda: partition.load(BATCH, CLIENT, 9_002, ["x"], total=9_002))
    partition.put_batch(BATCH, revision=2, state="ended")
    assert partition.load(BATCH, CLIENT, 9_002, ["x"], total=9_002) == ["ENDED"]


def test_rebuild_pool(shop: Partition) -> None:
    before = shop.snapshot()
    assert shop.rebuild_pool(BATCH, CLIENT, POOL_ID, issued=4, total=10) == ["NOT_FENCED", "1"]
    assert shop.snapshot() == before
    shop.epoch = -2
    assert shop.bless() == ["DONE"]
    shop.epoch = -1
    assert shop.rebuild_pool(BATCH, CLIENT, POOL_ID, issued=3, total=10) == ["STALE_EPOCH", "-2"]
    shop.epoch = -2
    assert shop.rebuild_pool(BATCH, CLIENT, POOL_ID, issued=4, total=10) == ["DONE"]
    assert codes_of(shop) == []
    shop.epoch = 2
    assert shop.bless() == ["DONE"]
    assert shop.load(BATCH, CLIENT, 5, ["code-5"], total=10) == ["DONE", "5", "4", "0"]
    assert shop.redeem_now(new_customer(), new_customer()).answers == (
        ScriptAnswer("GRANTED", "code-5"),
        ScriptAnswer("REFILLING"),
    )


def test_empty_pool(shop: Partition) -> None:
    one = new_customer("key")
    granted = shop.redeem_now(one).answers[0]
    assert shop.empty_pool(BATCH, CLIENT) == ["NOT_ENDED"]
    shop.put_batch(BATCH, revision=2, state="ended")
    refuses_another_epoch(shop, lambda: shop.empty_pool(BATCH, CLIENT))
    assert shop.empty_pool(BATCH, CLIENT) == ["DONE", "1"]
    assert shop.empty_pool(BATCH, OTHER_CLIENT) == ["NO_POOL"]
    answers = shop.redeem_now(one, new_customer()).answers
    assert answers == (ScriptAnswer("REPLAYED", granted.detail), ScriptAnswer("ENDED"))

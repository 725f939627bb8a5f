"""bless_partition.lua, ack_events.lua, set_max_backlog.lua and remove_consumers.lua: each status, and what is left."""

from __future__ import annotations

import pytest
import redis

from issuer.contract import scripts
from issuer.contract.keys import GROUP
from tests.support.partition import Partition
from tests.support.script_shop import new_customer, refuses_another_epoch


def test_bless_partition(shop: Partition) -> None:
    """The clock survives, and what was in the stream before the group is delivered to it."""
    now_ms = shop.redeem_now(new_customer()).now_ms
    shop.client.xgroup_destroy(shop.keys.stream, GROUP)
    shop.epoch = 2
    assert shop.bless(backlog=1) == ["DONE"]
    assert shop.client.hget(shop.keys.state, "clock") == str(now_ms).encode()
    delivered = shop.client.xreadgroup(GROUP, "me", {shop.keys.stream: ">"})
    assert len(delivered) == 1
    before = shop.snapshot()
    for late in (1, -1):
        shop.epoch = late
        assert shop.bless() == ["STALE_EPOCH", "2"]
    shop.epoch = 3
    shop.installation = "theirs"
    assert shop.bless() == ["FOREIGN", "ours"]
    assert shop.snapshot() == before
    shop.installation = "ours"
    shop.client.delete(shop.keys.stream)
    shop.client.set(shop.keys.stream, "not a stream")
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        shop.bless()
    assert shop.snapshot() == before


def test_a_fence_does_not_lower_the_backlog(shop: Partition) -> None:
    """It shows the recovery that the stream was cut."""
    shop.redeem_now(new_customer(), new_customer())
    for epoch, counted, found in ((-2, 1, b"2"), (-3, 5, b"5"), (3, 1, b"1")):
        shop.epoch = epoch
        assert shop.bless(backlog=counted) == ["DONE"]
        assert shop.client.hget(shop.keys.state, "backlog") == found


def test_create_group(shop: Partition) -> None:
    """What was in the stream before is delivered; a stream that was deleted is there again."""
    shop.redeem_now(new_customer())
    assert shop.create_group() == ["DONE"]
    shop.client.xgroup_destroy(shop.keys.stream, GROUP)
    refuses_another_epoch(shop, shop.create_group)
    assert shop.create_group() == ["CREATED"]
    assert len(shop.client.xreadgroup(GROUP, "me", {shop.keys.stream: ">"})) == 1
    shop.client.delete(shop.keys.stream)
    assert shop.create_group() == ["CREATED"]
    shop.client.delete(shop.keys.stream)
    shop.client.set(shop.keys.stream, "not a stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        shop.create_group()


def test_beat_partition(shop: Partition) -> None:
    """Data that are behind are not raised: they would reach what was seen of later ones."""
    shop.redeem_now(new_customer(), new_customer())
    assert [shop.beat() for _ in range(2)] == [["DONE", "2", "1"], ["DONE", "2", "2"]]
    refuses_another_epoch(shop, shop.beat)
    before = shop.snapshot()
    for floors in ((3, 2), (2, 3)):
        assert shop.beat(*floors) == ["BEHIND", "2", "2"]
    assert shop.snapshot() == before
    assert shop.beat(2, 2) == ["DONE", "2", "3"]
    # A recovery only raises both.
    shop.epoch = 2
    assert shop.bless(serial=5, beat=1) == ["DONE"]
    assert shop.beat() == ["DONE", "5", "4"]


def test_ack_events(shop: Partition) -> None:
    for count in (1, 2, 3):
        shop.redeem_now(*(new_customer() for _ in range(count)))
    (first, _), (second, _), (third, _) = shop.events()
    assert shop.ack([(second, 2)]) == ["DONE", "1", "2"]
    assert shop.ack([(second, 2), (b"1-1", 50), (first, 1), (first, 1)]) == ["DONE", "1", "1"]
    assert shop.client.hget(shop.keys.state, "backlog") == b"3"
    refuses_another_epoch(shop, lambda: shop.ack([(third, 3)]))
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="not a number"):
        shop.run(scripts.ACK_EVENTS, [shop.keys.state, shop.keys.stream], [1, GROUP, "", third, 3, b"9-9", "x"])
    assert shop.snapshot() == before
    assert shop.ack([(third, 3)]) == ["DONE", "1", "3"]
    assert shop.events() == []


def test_a_token_is_replaced_by_the_next(shop: Partition) -> None:
    """By that of an acknowledgement, and by that of a process; each returns the one before."""
    keys = [shop.keys.state, shop.keys.stream]
    assert shop.mark_lineage("one") == ["DONE", ""]
    assert shop.run(scripts.ACK_EVENTS, keys, [1, GROUP, "two"]) == [b"DONE", b"0", b"0", b"one"]
    assert shop.mark_lineage("three") == ["DONE", "two"]
    refuses_another_epoch(shop, lambda: shop.mark_lineage("four"))
    assert shop.client.hget(shop.keys.state, "lineage") == b"three"


def test_set_max_backlog(shop: Partition) -> None:
    shop.redeem_now(new_customer())
    assert shop.set_max_backlog(2) == ["DONE", "1"]
    answers = shop.redeem_now(new_customer(), new_customer()).answers
    assert [answer.word for answer in answers] == ["GRANTED", "BACKLOG_FULL"]
    refuses_another_epoch(shop, lambda: shop.set_max_backlog(3))


def test_set_clock(shop: Partition) -> None:
    """Only on a partition that this very recovery has fenced, and never forward."""
    now_ms = shop.redeem_now(new_customer()).now_ms
    assert shop.set_clock(now_ms) == ["NOT_FENCED", "1"]
    shop.epoch = -2
    assert shop.bless(backlog=1) == ["DONE"]
    assert shop.set_clock(now_ms + 1) == ["DONE", str(now_ms)]
    assert shop.set_clock(now_ms - 1) == ["DONE", str(now_ms)]
    assert shop.client.hget(shop.keys.state, "clock") == str(now_ms - 1).encode()
    shop.epoch = -3
    assert shop.set_clock(1) == ["STALE_EPOCH", "-2"]


def test_remove_consumers(shop: Partition) -> None:
    shop.redeem_now(new_customer())
    shop.client.xreadgroup(GROUP, "busy", {shop.keys.stream: ">"})
    shop.client.xgroup_createconsumer(shop.keys.stream, GROUP, "idle")
    assert shop.remove_consumers(3_600_000) == ["DONE", "0"]
    refuses_another_epoch(shop, lambda: shop.remove_consumers(0))
    assert shop.remove_consumers(0) == ["DONE", "1"]
    assert [consumer["name"] for consumer in shop.client.xinfo_consumers(shop.keys.stream, GROUP)] == [b"busy"]

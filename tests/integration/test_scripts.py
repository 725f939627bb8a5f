"""Each script's statuses, and what a script leaves behind that cannot go through: nothing, or what can be repeated."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

import pytest
import redis

from issuer.contract import scripts
from issuer.contract.keys import GROUP
from tests.support.databases import fresh_redis_url
from tests.support.redeeming import (
    ANSWER_KEPT_MS,
    Partition,
    ScriptAnswer,
    ScriptCall,
    ScriptLimit,
    ScriptRequest,
    broken_off,
    connect,
)
from tests.support.servers import RedisServer

BATCH: Final = uuid.UUID(int=1)
CLIENT: Final = uuid.UUID(int=2)
OTHER_CLIENT: Final = uuid.UUID(int=3)
POOL_ID: Final = 77
MONTH_MS: Final = 30 * 86_400_000
WRITES_OF_A_REDEMPTION: Final = 7
"""XADD, LPOP, kept call, kept answer, window, pool, state."""


@pytest.fixture
def client(any_redis_server: RedisServer) -> Iterator[redis.Redis]:
    database = int(fresh_redis_url(any_redis_server).rpartition("/")[2])
    with connect(host="127.0.0.1", port=any_redis_server.port, db=database) as client:
        yield client
        client.flushdb()


@pytest.fixture
def empty(client: redis.Redis) -> Partition:
    """A blessed partition."""
    partition = Partition(client, 5)
    assert partition.bless() == ["DONE"]
    return partition


@pytest.fixture
def shop(empty: Partition) -> Partition:
    """A batch with a limit of 2 a month and a pool of ten codes."""
    stock(empty)
    return empty


def stock(partition: Partition) -> None:
    assert partition.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)]) == ["DONE"]
    assert partition.open_pool(BATCH, CLIENT, POOL_ID, total=10) == ["DONE", "0", "0"]
    codes = [f"code-{seq}" for seq in range(1, 11)]
    assert partition.load(BATCH, CLIENT, 1, codes, total=10) == ["DONE", "10", "0"]


def somebody(key: str | None = None, client: UUID = CLIENT) -> ScriptRequest:
    return ScriptRequest(BATCH, client, uuid.uuid4(), key)


def codes_of(partition: Partition) -> list[bytes]:
    listed = partition.client.execute_command("LRANGE", partition.batch(BATCH).codes(CLIENT), 0, -1)
    assert isinstance(listed, list)
    return listed


def stale(partition: Partition, act: Callable[[], list[str]]) -> None:
    """An act with another epoch is refused and leaves no trace."""
    before = partition.snapshot()
    partition.epoch += 1
    assert act() == ["STALE_EPOCH", str(partition.epoch - 1)]
    partition.epoch -= 1
    assert partition.snapshot() == before


def test_put_batch(empty: Partition) -> None:
    assert empty.put_batch(BATCH, revision=2) == ["DONE"]
    assert empty.put_batch(BATCH, revision=2, paused=True) == ["DONE"]
    assert empty.redeem_now(somebody()).answers == (ScriptAnswer("PAUSED"),)
    assert empty.put_batch(BATCH, revision=1) == ["SUPERSEDED", "2"]
    assert empty.redeem_now(somebody()).answers == (ScriptAnswer("PAUSED"),)
    stale(empty, lambda: empty.put_batch(BATCH, revision=3))


def test_put_batch_does_not_close_what_was_rebuilt(empty: Partition) -> None:
    assert empty.put_batch(BATCH, revision=2, rebuilding=2) == ["DONE"]
    assert empty.put_batch(BATCH, revision=2, rebuilding=2) == ["DONE"]
    assert empty.put_batch(BATCH, revision=2) == ["DONE"]
    before = empty.snapshot()
    assert empty.put_batch(BATCH, revision=2, rebuilding=2) == ["REBUILT"]
    assert empty.snapshot() == before
    assert empty.put_batch(BATCH, revision=3, rebuilding=3) == ["DONE"]


def test_open_pool(empty: Partition) -> None:
    assert empty.open_pool(BATCH, CLIENT, 7) == ["UNKNOWN_BATCH"]
    empty.put_batch(BATCH)
    assert empty.open_pool(BATCH, CLIENT, 7, issued=40, total=50) == ["DONE", "40", "40"]
    assert empty.open_pool(BATCH, CLIENT, 7, issued=41, total=50) == ["DONE", "40", "40"]
    assert empty.load(BATCH, CLIENT, 41, ["a"], total=50) == ["DONE", "41", "40"]
    stale(empty, lambda: empty.open_pool(BATCH, OTHER_CLIENT, 8))
    empty.put_batch(BATCH, revision=2, state="ended")
    assert empty.open_pool(BATCH, OTHER_CLIENT, 8) == ["ENDED"]


def test_load_codes(empty: Partition) -> None:
    assert empty.load(BATCH, CLIENT, 1, ["a"], total=1) == ["UNKNOWN_BATCH"]
    empty.put_batch(BATCH)
    assert empty.load(BATCH, CLIENT, 1, ["a"], total=1) == ["NO_POOL"]
    empty.open_pool(BATCH, CLIENT, POOL_ID, total=3)
    assert empty.load(BATCH, CLIENT, 1, ["a", "b"], total=3) == ["DONE", "2", "0"]
    assert empty.load(BATCH, CLIENT, 1, ["a", "b"], total=3) == ["OUT_OF_STEP", "2", "0"]
    assert empty.load(BATCH, CLIENT, 4, ["d"], total=3) == ["OUT_OF_STEP", "2", "0"]
    assert empty.load(BATCH, CLIENT, 3, [], total=9_001) == ["DONE", "2", "0"]
    many = [f"m{seq}" for seq in range(3, 9_002)]
    assert empty.load(BATCH, CLIENT, 3, many, total=3) == ["DONE", "9001", "0"]
    assert codes_of(empty) == [b"a", b"b", *(code.encode() for code in many)]
    assert empty.client.hget(empty.batch(BATCH).pool(CLIENT), "total") == b"9001"
    stale(empty, lambda: empty.load(BATCH, CLIENT, 9_002, ["x"], total=9_002))
    empty.put_batch(BATCH, revision=2, state="ended")
    assert empty.load(BATCH, CLIENT, 9_002, ["x"], total=9_002) == ["ENDED"]


def test_put_windows(shop: Partition) -> None:
    one, now_ms = uuid.uuid4(), time.time_ns() // 1_000_000
    windows = [(one, [now_ms - 5, now_ms], MONTH_MS)]
    assert shop.put_windows(BATCH, 2, windows) == ["SUPERSEDED", ""]
    assert shop.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)], revision=2, rebuilding=2) == ["DONE"]
    assert shop.redeem_now(ScriptRequest(BATCH, CLIENT, one)).answers == (ScriptAnswer("REBUILDING"),)
    assert shop.put_windows(BATCH, 3, windows) == ["SUPERSEDED", "2"]
    assert shop.put_windows(BATCH, 2, windows) == ["DONE"]
    stale(shop, lambda: shop.put_windows(BATCH, 2, windows))
    assert shop.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)], revision=2) == ["DONE"]
    refused = shop.redeem_now(ScriptRequest(BATCH, CLIENT, one))
    assert refused.answers == (ScriptAnswer("LIMIT_REACHED", str(now_ms - 5 + MONTH_MS)),)


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
    assert shop.load(BATCH, CLIENT, 5, ["code-5"], total=10) == ["DONE", "5", "4"]
    assert shop.redeem_now(somebody(), somebody()).answers == (
        ScriptAnswer("GRANTED", "code-5"),
        ScriptAnswer("REFILLING"),
    )


def test_bless_partition(shop: Partition) -> None:
    """The clock survives, and what was in the stream before the group is delivered to it."""
    now_ms = shop.redeem_now(somebody()).now_ms
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


def test_ack_events(shop: Partition) -> None:
    for count in (1, 2, 3):
        shop.redeem_now(*(somebody() for _ in range(count)))
    (first, _), (second, _), (third, _) = shop.events()
    assert shop.ack([(second, 2)]) == ["DONE", "1", "2"]
    assert shop.ack([(second, 2), (b"1-1", 50), (first, 1), (first, 1)]) == ["DONE", "1", "1"]
    assert shop.client.hget(shop.keys.state, "backlog") == b"3"
    stale(shop, lambda: shop.ack([(third, 3)]))
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="not a number"):
        shop.run(scripts.ACK_EVENTS, [shop.keys.state, shop.keys.stream], [1, GROUP, third, 3, b"9-9", "x"])
    assert shop.snapshot() == before
    assert shop.ack([(third, 3)]) == ["DONE", "1", "3"]
    assert shop.events() == []


def test_set_max_backlog(shop: Partition) -> None:
    def bound(size: int) -> list[str]:
        reply = shop.run(scripts.SET_MAX_BACKLOG, [shop.keys.state], [shop.epoch, size])
        return [value.decode() for value in reply]

    shop.redeem_now(somebody())
    assert bound(2) == ["DONE", "1"]
    answers = shop.redeem_now(somebody(), somebody()).answers
    assert [answer.word for answer in answers] == ["GRANTED", "BACKLOG_FULL"]
    stale(shop, lambda: bound(3))


def test_empty_pool(shop: Partition) -> None:
    names = shop.batch(BATCH)

    def empty_pool(client: UUID) -> list[str]:
        keys = [shop.keys.state, names.batch, names.pool(client), names.codes(client)]
        return [value.decode() for value in shop.run(scripts.EMPTY_POOL, keys, [shop.epoch])]

    one = somebody("key")
    granted = shop.redeem_now(one).answers[0]
    assert empty_pool(CLIENT) == ["NOT_ENDED"]
    shop.put_batch(BATCH, revision=2, state="ended")
    stale(shop, lambda: empty_pool(CLIENT))
    assert empty_pool(CLIENT) == ["DONE", "1"]
    assert empty_pool(OTHER_CLIENT) == ["NO_POOL"]
    answers = shop.redeem_now(one, somebody()).answers
    assert answers == (ScriptAnswer("REPLAYED", granted.detail), ScriptAnswer("ENDED"))


def test_remove_consumers(shop: Partition) -> None:
    def remove(idle_ms: int) -> list[str]:
        reply = shop.run(scripts.REMOVE_CONSUMERS, [shop.keys.state, shop.keys.stream], [shop.epoch, GROUP, idle_ms])
        return [value.decode() for value in reply]

    shop.redeem_now(somebody())
    shop.client.xreadgroup(GROUP, "busy", {shop.keys.stream: ">"})
    shop.client.xgroup_createconsumer(shop.keys.stream, GROUP, "idle")
    assert remove(3_600_000) == ["DONE", "0"]
    stale(shop, lambda: remove(0))
    assert remove(0) == ["DONE", "1"]
    assert [consumer["name"] for consumer in shop.client.xinfo_consumers(shop.keys.stream, GROUP)] == [b"busy"]


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
    call = call_of(shop, somebody("key"), somebody())
    key = key_named(shop, name, call)
    shop.client.delete(key)
    shop.client.zadd(key, {"not": 1})
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        shop.redeem(call)
    assert shop.snapshot() == before


def call_of(partition: Partition, *requests: ScriptRequest) -> ScriptCall:
    seconds, _ = partition.client.time()
    return ScriptCall(requests, seconds * 1000 + 10_000, partition.epoch)


@pytest.mark.parametrize("writes", range(WRITES_OF_A_REDEMPTION + 1))
def test_a_script_that_breaks_off_gives_no_code_twice(client: redis.Redis, writes: int) -> None:
    """Every prefix of the writes. (LPOP behind XADD cannot fail: the list was just read. So prefix 1 cannot be.)"""
    shop, broken = Partition(client, 5), Partition(client, 5, prologue=broken_off(writes))
    shop.bless()
    stock(shop)
    before = shop.snapshot()
    call = call_of(shop, somebody("key"))
    if writes == WRITES_OF_A_REDEMPTION:
        assert broken.redeem(call).answers == (ScriptAnswer("GRANTED", "code-1"),)
    else:
        with pytest.raises(redis.ResponseError, match="broken off"):
            broken.redeem(call)
    assert (shop.snapshot() == before) is (writes == 0)
    told = [redemption.code for _, event in shop.events() for redemption in event.redemptions]
    assert told == ([] if writes == 0 else ["code-1"])
    if writes == 1:
        return
    if writes >= 3:
        assert shop.redeem(call).status == "REPEATED"
    if writes >= 4:
        again = call_of(shop, call.requests[0])
        assert shop.redeem(again).answers == (ScriptAnswer("REPLAYED", "code-1"),)
    later = shop.redeem_now(somebody()).answers[0]
    if 2 <= writes < 6:
        assert later == ScriptAnswer("INCONSISTENT")
    else:
        assert later == ScriptAnswer("GRANTED", "code-1" if writes == 0 else "code-2")


def test_a_repeated_call_tells_its_event_until_that_is_in_the_ledger(shop: Partition) -> None:
    call = call_of(shop, somebody(), somebody())
    first = shop.redeem(call)
    again = shop.redeem(call)
    assert (again.status, again.raw, again.data) == ("REPEATED", first.raw, first.data)
    assert first.data
    entry_id, _ = shop.events()[-1]
    shop.ack([(entry_id, 2)])
    late = shop.redeem(call)
    assert (late.status, late.raw, late.data) == ("REPEATED", first.raw, b"")


def test_a_forgotten_script_is_loaded_again(shop: Partition) -> None:
    """SCRIPT FLUSH is for the whole server; every caller of a shared one loads what it misses."""
    shop.redeem_now(somebody())
    shop.client.script_flush()
    assert shop.redeem_now(somebody()).answers == (ScriptAnswer("GRANTED", "code-2"),)


def test_a_pool_named_twice_gives_nothing(shop: Partition) -> None:
    keys, args = shop.encode(call_of(shop, somebody(), somebody()))
    names = shop.batch(BATCH)
    keys[4:6] = [names.pool(CLIENT), names.pool(CLIENT), names.codes(CLIENT), names.codes(CLIENT)]
    args[4], args[5], args[8] = 2, b"\0\1\0\1", b"\0\2" + bytes(args[8])[2:]  # type: ignore[arg-type]
    before = shop.snapshot()
    with pytest.raises(redis.ResponseError, match="named twice"):
        shop.run(scripts.REDEEM, keys, args)
    assert shop.snapshot() == before


def test_a_call_of_thousands(empty: Partition) -> None:
    """The longest codes there are, seqs beyond 2^31, pool ids beyond 2^53, windows and answers in several pieces."""
    first, count, pool_id = 2**40, 5_000, 2**62 + 1
    codes = [f"{seq:04d}".ljust(255, "😀") for seq in range(count)]
    empty.put_batch(BATCH, [ScriptLimit(1, MONTH_MS)])
    empty.put_batch(uuid.UUID(int=9), [ScriptLimit(1, 0)])
    total = first + count
    assert empty.open_pool(BATCH, CLIENT, pool_id, issued=first, total=total) == ["DONE", str(first), str(first)]
    assert empty.load(BATCH, CLIENT, first + 1, codes, total=total) == ["DONE", str(total), str(first)]
    call = call_of(empty, *(somebody(f"key {number}") for number in range(count)))
    assert empty.redeem(call).answers == tuple(ScriptAnswer("GRANTED", code) for code in codes)
    ((_, event),) = empty.events()
    assert [redemption.seq for redemption in event.redemptions] == list(range(first + 1, total + 1))
    assert {redemption.pool_id for redemption in event.redemptions} == {pool_id}
    again = call_of(empty, *call.requests)
    assert empty.redeem(again).answers == tuple(ScriptAnswer("REPLAYED", code) for code in codes)
    keyless = [ScriptRequest(BATCH, CLIENT, request.customer) for request in call.requests]
    assert {answer.word for answer in empty.redeem(call_of(empty, *keyless)).answers} == {"LIMIT_REACHED"}
    window = empty.client.pttl(empty.window(BATCH, call.requests[-1].customer or BATCH))
    assert MONTH_MS - 60_000 < window <= MONTH_MS + 1_000
    kept = empty.batch(BATCH).idempotency_prefix + (call.requests[-1].key_hash or b"")
    assert ANSWER_KEPT_MS - 60_000 < empty.client.pttl(kept) <= ANSWER_KEPT_MS


def test_nothing_is_left_behind_when_memory_is_short(any_redis_server: RedisServer, tmp_path: Any) -> None:
    """New redemptions are refused as a whole; what was handed out before is told again; the backlog can be drained."""
    with (
        RedisServer(tmp_path / "redis", program=any_redis_server.program) as server,
        connect(host="127.0.0.1", port=server.port) as client,
    ):
        shop = Partition(client, 5)
        shop.bless()
        stock(shop)
        known = somebody("key")
        call = call_of(shop, known, somebody())
        first = shop.redeem(call)
        shop.ack([])
        client.config_set("maxmemory", 1)
        before = shop.snapshot()
        for requests in ([somebody()], [known, somebody()]):
            with pytest.raises(redis.ResponseError, match=r"OOM|used memory"):
                shop.redeem(call_of(shop, *requests))
        assert shop.redeem(call_of(shop, known)).answers == (ScriptAnswer("REPLAYED", first.answers[0].detail),)
        assert shop.redeem(call_of(shop, ScriptRequest(BATCH, OTHER_CLIENT, None))).answers == (
            ScriptAnswer("SOLD_OUT"),
        )
        assert shop.snapshot() == before
        assert shop.redeem(call).raw == first.raw
        assert shop.ack([(entry_id, event.count) for entry_id, event in shop.events()]) == ["DONE", "1", "2"]
        client.config_set("maxmemory", 0)
        assert shop.redeem_now(somebody()).answers == (ScriptAnswer("GRANTED", "code-3"),)


def test_wait_behind_a_replay_or_a_repeat_waits_for_what_it_tells(any_redis_server: RedisServer, tmp_path: Any) -> None:
    """On a connection of its own, as after a lost reply: WAIT counts from this connection's last write."""
    program = any_redis_server.program
    with RedisServer(tmp_path / "primary", program=program, options={"repl-diskless-sync-delay": "0"}) as primary:
        options = {"replicaof": f"127.0.0.1 {primary.port}", "appendonly": "no"}
        with (
            RedisServer(tmp_path / "replica", program=program, options=options) as replica,
            connect(host="127.0.0.1", port=primary.port) as client,
        ):
            shop = Partition(client, 5)
            shop.bless()
            stock(shop)
            assert client.wait(1, 30_000) == 1
            replica.freeze()
            known = somebody("key")
            call = call_of(shop, known)
            first = shop.redeem(call)
            for again in (call, call_of(shop, known)):
                with connect(host="127.0.0.1", port=primary.port, single_connection_client=True) as other:
                    answers = Partition(other, 5).redeem(again).answers
                    assert answers[0].detail == first.answers[0].detail
                    assert other.wait(1, 50) == 0
            replica.thaw()
            assert client.wait(1, 30_000) == 1

"""The scripts on a store that has reached its memory limit."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import redis

from issuer.contract.keys import GROUP
from tests.conformance.gaps import Gap, servers_only
from tests.support.partition import Partition, connect
from tests.support.redeeming import ScriptAnswer, ScriptLimit, ScriptRequest
from tests.support.script_shop import (
    BATCH,
    CLIENT,
    MONTH_MS,
    OTHER_CLIENT,
    POOL_ID,
    call_of,
    new_customer,
    stock,
)
from tests.support.stores import ServerStore


@servers_only(Gap.MAXMEMORY)
def test_nothing_is_left_behind_when_memory_is_short(server_store: ServerStore, tmp_path: Path) -> None:
    """New redemptions are refused as a whole, earlier answers are repeated, and the backlog can be drained."""
    with server_store.another(tmp_path / "redis") as server, connect(host="127.0.0.1", port=server.port) as client:
        shop = Partition(client, 5)
        shop.bless()
        stock(shop)
        known = new_customer("key")
        call = call_of(shop, known, new_customer())
        first = shop.redeem(call)
        shop.ack([])
        client.config_set("maxmemory", 1)
        before = shop.snapshot()
        for requests in ([new_customer()], [known, new_customer()]):
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
        assert shop.redeem_now(new_customer()).answers == (ScriptAnswer("GRANTED", "code-3"),)


@servers_only(Gap.MAXMEMORY)
def test_control_writes_pass_when_memory_is_short(server_store: ServerStore, tmp_path: Path) -> None:
    """Whatever an operator or a recovery changes counts, also above the limit."""
    with server_store.another(tmp_path / "redis") as server, connect(host="127.0.0.1", port=server.port) as client:
        client.config_set("maxmemory", 1)
        shop, customer = Partition(client, 5), uuid.uuid4()
        assert shop.bless() == ["DONE"]
        assert len(client.xinfo_groups(shop.keys.stream)) == 1
        assert shop.set_max_backlog(7) == ["DONE", "0"]
        assert shop.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)], rebuilding=1) == ["DONE"]
        assert shop.put_windows(BATCH, 1, [(customer, [1], MONTH_MS)]) == ["DONE"]
        assert shop.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)], paused=True) == ["DONE"]
        assert shop.return_uses(BATCH, [(customer, 1, 0)]) == ["DONE", "1"]
        client.xgroup_destroy(shop.keys.stream, GROUP)
        assert shop.create_group() == ["CREATED"]
        shop.epoch = -2
        assert shop.bless() == ["DONE"]
        assert shop.rebuild_pool(BATCH, CLIENT, POOL_ID, issued=0, total=5) == ["DONE"]
        assert shop.put_answers([(b"key", b"answer", 1_000)]) == ["DONE"]
        shop.epoch = 2
        assert shop.bless() == ["DONE"]
        assert shop.redeem_now(new_customer()).answers == (ScriptAnswer("PAUSED"),)
        assert shop.put_batch(BATCH, revision=2, state="ended") == ["DONE"]
        assert shop.empty_pool(BATCH, CLIENT) == ["DONE", "0"]
        assert shop.redeem_now(new_customer()).answers == (ScriptAnswer("ENDED"),)

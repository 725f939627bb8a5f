"""The scripts on a store that has reached its memory limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.conformance.gaps import Gap, servers_only
from tests.support.partition import Partition, connect
from tests.support.redeeming import ScriptAnswer, ScriptRequest
from tests.support.script_shop import BATCH, OTHER_CLIENT, call_of, new_customer, stock
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

"""The scripts on a store with a replica."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.gaps import Gap, servers_only
from tests.support.partition import Partition, connect
from tests.support.script_shop import call_of, new_customer, stock
from tests.support.stores import ServerStore


@servers_only(Gap.REPLICAS)
def test_wait_behind_a_replay_or_a_repeat_waits_for_what_it_returns(server_store: ServerStore, tmp_path: Path) -> None:
    """On a connection of its own, as after a lost reply: WAIT counts from this connection's last write."""
    with server_store.another(tmp_path / "primary", {"repl-diskless-sync-delay": "0"}) as primary:
        options = {"replicaof": f"127.0.0.1 {primary.port}", "appendonly": "no"}
        with (
            server_store.another(tmp_path / "replica", options) as replica,
            connect(host="127.0.0.1", port=primary.port) as client,
        ):
            shop = Partition(client, 5)
            shop.bless()
            stock(shop)
            assert client.wait(1, 30_000) == 1
            replica.freeze()
            known = new_customer("key")
            call = call_of(shop, known)
            first = shop.redeem(call)
            for again in (call, call_of(shop, known)):
                with connect(host="127.0.0.1", port=primary.port, single_connection_client=True) as other:
                    answers = Partition(other, 5).redeem(again).answers
                    assert answers[0].detail == first.answers[0].detail
                    assert other.wait(1, 50) == 0
            replica.thaw()
            assert client.wait(1, 30_000) == 1

"""Failover with three real servers and three real sentinels, all the same binary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from issuer.contract.outcomes import Outcome
from issuer.pools.top_up import top_up
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from tests.support.recovery import CLIENT, engine_of, make_batch, redeem, seqs
from tests.support.servers import RedisServer, ServerProcess, wait_until

pytestmark = pytest.mark.long


class SentinelProcess(RedisServer):
    """One sentinel that watches `primary` under the name `codes`."""

    name = "sentinel"

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        super().__init__(directory)
        self.primary = primary

    def command(self) -> list[str]:
        (self.directory / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\nprotected-mode no\ndir {self.directory}\n"
            f"sentinel monitor codes 127.0.0.1 {self.primary.port} 2\n"
            "sentinel down-after-milliseconds codes 1000\nsentinel failover-timeout codes 10000\n"
        )
        return [str(self.program), str(self.directory / "sentinel.conf"), "--sentinel"]

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@dataclass
class Cluster:
    primary: RedisServer
    replicas: list[RedisServer]
    sentinels: list[SentinelProcess]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"sentinel://{hosts}/codes/0"


def _replica_count(server: RedisServer) -> int:
    with server.client() as client:
        replication = client.info("replication")
    return sum(replication.get(f"slave{number}", {}).get("state") == "online" for number in range(2))


def _knows_others(sentinel: SentinelProcess) -> bool:
    with sentinel.client() as client:
        state = client.execute_command("SENTINEL", "MASTER", "codes")
    pairs = dict(zip(state[::2], state[1::2], strict=True)) if isinstance(state, list) else state
    known = {str(k, "utf-8") if isinstance(k, bytes) else k: v for k, v in pairs.items()}
    return int(known["num-slaves"]) == 2 and int(known["num-other-sentinels"]) == 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started: list[ServerProcess] = []
    try:
        primary = RedisServer(tmp_path / "primary", options={"repl-diskless-sync-delay": "0"}).start()
        started.append(primary)
        replicas = []
        for number in range(2):
            replica = RedisServer(
                tmp_path / f"replica{number}",
                options={"replicaof": f'127.0.0.1" "{primary.port}'},
            )
            started.append(replica.start())
            replicas.append(replica)
        wait_until(lambda: _replica_count(primary) == 2, "both replicas follow")
        sentinels = []
        for number in range(3):
            sentinel = SentinelProcess(tmp_path / f"sentinel{number}", primary)
            started.append(sentinel.start())
            sentinels.append(sentinel)
        wait_until(lambda: all(_knows_others(sentinel) for sentinel in sentinels), "the sentinels know each other")
        yield Cluster(primary, replicas, sentinels)
    finally:
        for server in reversed(started):
            server.kill9()


async def test_a_failover_issues_no_code_twice_and_redemptions_continue(settings: Settings, cluster: Cluster) -> None:
    settings = settings.model_copy(
        update={
            "redis_url": SecretStr(cluster.url),
            "max_backlog": 50,
            "wait_replicas": 1,
            "wait_timeout_ms": 1000,
            "journal": "off",
        }
    )
    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 400)
        async with engine_of(settings, stores) as engine:
            before = await redeem(engine, batch_id, 20)
            assert {a.outcome for a in before} == {Outcome.GRANTED}
            cluster.primary.kill9()
            async with asyncio.timeout(60):
                while True:
                    (answer,) = await redeem(engine, batch_id, 1)
                    if answer.outcome is Outcome.GRANTED:
                        break
                    assert answer.outcome in (Outcome.NOT_READY, Outcome.REFILLING, Outcome.NOT_REPLICATED)
                    if answer.outcome is Outcome.REFILLING:
                        await top_up(stores)
                    await asyncio.sleep(0.05)
            after = [answer, *await redeem(engine, batch_id, 20)]
        given = [a.code for a in (*before, *after) if a.outcome is Outcome.GRANTED]
        assert len(given) == len(set(given))
        # The surviving stream was drained: what was replicated is in the ledger; a promoted replica is a loss.
        assert await seqs(stores, "redemptions") == list(range(1, 21))
        assert len(await seqs(stores, "quarantined")) == 50


async def test_missing_replicas_refuse_an_answer_and_a_replay_waits_again(settings: Settings, cluster: Cluster) -> None:
    settings = settings.model_copy(
        update={"redis_url": SecretStr(cluster.url), "wait_replicas": 2, "wait_timeout_ms": 200}
    )
    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 40)
        async with engine_of(settings, stores) as engine:
            ref, customer = engine.pool_ref(batch_id, CLIENT), b"c" * 16
            cluster.replicas[0].freeze()
            first = await engine.redeem(ref, customer, idempotency_key="k")
            second = await engine.redeem(ref, customer, idempotency_key="k")
            assert [first.outcome, second.outcome] == [Outcome.NOT_REPLICATED] * 2
            cluster.replicas[0].thaw()
            async with asyncio.timeout(30):
                while (
                    third := await engine.redeem(ref, customer, idempotency_key="k")
                ).outcome is not Outcome.REPLAYED:
                    await asyncio.sleep(0.05)
            assert third.code == "CODE1"

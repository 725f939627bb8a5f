"""The engine on a real Redis: what it gathers, repeats and refuses, and that one batch never delays another."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from issuer.contract.keys import partition_keys
from issuer.contract.outcomes import Outcome
from issuer.engine import calls
from issuer.engine import engine as engine_module
from issuer.engine.calls import NOT_READY, Answer
from issuer.engine.engine import Engine
from issuer.settings import Settings
from issuer.storage import redis_link
from issuer.storage.redis_link import Link, RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.recovery import CLIENT, engine_of, make_batch, ready, redeem
from tests.support.servers import RedisServer


class Relay:
    """A TCP relay to Redis that can lose the reply to the next EVALSHA, after Redis has run it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.lose_replies = 0
        self.calls_seen = 0
        self.silent = False
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self, database: str) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/{database}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        lose = False

        async def back() -> None:
            while data := await up_reader.read(65536):
                if lose:
                    self.lose_replies -= 1
                    break
                writer.write(data)

        task = asyncio.create_task(back(), name="relay-back")
        try:
            while data := await reader.read(65536):
                if self.silent and b"EVALSHA" not in data:
                    continue
                if b"EVALSHA" in data:
                    self.calls_seen += 1
                    lose = self.lose_replies > 0
                up_writer.write(data)
                if lose:
                    await task
                    break
        except ConnectionError:
            pass
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await task
            for one in (writer, up_writer):
                one.close()
                with contextlib.suppress(ConnectionError):
                    await one.wait_closed()


async def _backlog(stores: Stores) -> int:
    """Redemptions that the script counted: what was really issued."""
    client: Any = stores.redis.client
    counts = [await client.hget(partition_keys(p).state, "backlog") for p in range(stores.redis.partitions)]
    return sum(map(int, counts))


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_call_whose_reply_is_lost_is_repeated_and_recognised(
    settings: Settings, stores: Stores, redis_server: RedisServer, lost: int
) -> None:
    batch_id = await make_batch(stores, 50)
    relay = Relay(redis_server.port)
    async with relay.running(settings.redis_url.get_secret_value().rpartition("/")[2]):
        through = settings.model_copy(update={"redis_url": SecretStr(relay.url)})
        async with engine_of(through, stores) as engine:
            relay.lose_replies = lost
            answers = await redeem(engine, batch_id, 10)
            assert relay.lose_replies == 0
            assert relay.calls_seen > lost
    assert Counter(a.outcome for a in answers) == {Outcome.GRANTED: 10}
    assert len({a.code for a in answers}) == 10
    assert await _backlog(stores) == 10


async def test_the_driver_itself_sends_nothing_twice(
    settings: Settings, stores: Stores, redis_server: RedisServer
) -> None:
    relay = Relay(redis_server.port)
    async with relay.running(settings.redis_url.get_secret_value().rpartition("/")[2]):
        through = settings.model_copy(update={"redis_url": SecretStr(relay.url)})
        link = Link(through, None)
        await link.open()
        relay.lose_replies = 1
        with pytest.raises(RedisUnavailableError):
            await link.call([("EVALSHA", "0" * 40, 0)], timeout_s=5)
        assert relay.calls_seen == 1
        assert not link.is_open
        await link.aclose()


async def test_a_connection_is_not_used_again_after_a_read_was_cancelled(settings: Settings, stores: Stores) -> None:
    link = Link(settings, stores.incarnations)
    await link.open()
    with pytest.raises(RedisUnavailableError):
        await link.call([("BLPOP", "nothing-comes-here", 1)], timeout_s=0.05)
    assert not link.is_open
    await link.open()
    assert await link.call([("ECHO", "mine")], timeout_s=5) == [b"mine"]
    await link.aclose()


@pytest.mark.long
async def test_cancelled_requests_disturb_no_other(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 3_000)
    async with engine_of(settings, stores) as engine:
        ref = engine.pool_ref(batch_id, CLIENT)
        keys = [f"key-{number}" for number in range(2_000)]
        customers = [uuid.uuid4().bytes for _ in keys]
        tasks = [
            asyncio.create_task(engine.redeem(ref, customer, idempotency_key=key))
            for customer, key in zip(customers, keys, strict=True)
        ]
        for number in range(0, len(tasks), 4):
            await asyncio.sleep(0)
            tasks[number].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        kept = {number: answer for number, answer in enumerate(done) if isinstance(answer, Answer)}
        assert len(kept) >= 1_500
        assert {answer.outcome for answer in kept.values()} == {Outcome.GRANTED}
        assert len({answer.code for answer in kept.values()}) == len(kept)
        again = [await engine.redeem(ref, customers[n], idempotency_key=keys[n]) for n in range(0, len(tasks), 5)]
        for number, answer in zip(range(0, len(tasks), 5), again, strict=True):
            if number in kept:
                assert answer == Answer(Outcome.REPLAYED, kept[number].code)
            else:
                assert answer.outcome in (Outcome.GRANTED, Outcome.REPLAYED)


async def test_more_than_may_wait_is_refused_at_once_and_the_rest_is_served(settings: Settings, stores: Stores) -> None:
    few = settings.model_copy(update={"max_waiting": 100})
    batch_id = await make_batch(stores, 1_000)
    async with engine_of(few, stores) as engine:
        outcomes = Counter(answer.outcome for answer in await redeem(engine, batch_id, 300))
    assert outcomes[Outcome.OVERLOADED] == 200
    assert outcomes[Outcome.GRANTED] == 100
    assert await _backlog(stores) == 100


async def test_equal_keys_in_one_call_get_one_code_and_another_client_none(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 10)
    async with engine_of(settings, stores) as engine:
        ref, other, customer = engine.pool_ref(batch_id, CLIENT), engine.pool_ref(batch_id, uuid.uuid4()), b"c" * 16
        answers = await asyncio.gather(
            *[engine.redeem(ref, customer, idempotency_key="same") for _ in range(5)],
            engine.redeem(other, customer, idempotency_key="same"),
        )
    assert Counter(a.outcome for a in answers) == {
        Outcome.GRANTED: 1, Outcome.REPLAYED: 4, Outcome.KEY_REUSED: 1,
    }  # fmt: skip
    assert {a.code for a in answers if a.code} == {"CODE1"}


async def test_an_unknown_answer_of_the_script_stops_nothing(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await make_batch(stores, 500)
    async with engine_of(settings, stores) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(calls, "_PLAIN", {})
            patched.setattr(engine_module, "MAX_IN_PIPELINE", 10)
            async with asyncio.timeout(20):
                answers = await redeem(engine, uuid.uuid4(), 50)
        assert answers == [NOT_READY] * 50
        assert engine.is_alive
        await ready(engine)
        answers = await redeem(engine, batch_id, 5)
    assert Counter(a.outcome for a in answers) == {Outcome.GRANTED: 5}


async def test_a_server_that_takes_connections_and_is_silent_costs_no_more_than_the_time_out(
    settings: Settings, stores: Stores, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await make_batch(stores, 50)
    relay = Relay(redis_server.port)
    async with relay.running(settings.redis_url.get_secret_value().rpartition("/")[2]):
        through = settings.model_copy(update={"redis_url": SecretStr(relay.url), "redeem_timeout_ms": 300})
        monkeypatch.setattr(redis_link, "CONNECT_TIMEOUT_S", 100.0)
        async with engine_of(through, stores) as engine:
            relay.lose_replies, relay.silent = 1, True
            # Far more than the time-out, and less than opening a connection may take.
            async with asyncio.timeout(20):
                answers = await redeem(engine, batch_id, 1)
            assert answers == [NOT_READY]


async def test_forgotten_scripts_are_loaded_again(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 10)
    async with engine_of(settings, stores) as engine:
        await stores.redis.client.script_flush()
        assert [a.outcome for a in await redeem(engine, batch_id, 3)] == [Outcome.GRANTED] * 3


async def test_without_redis_the_answer_is_immediate_and_nothing_waits(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 10)
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    engine = Engine(away, stores.incarnations)
    await engine.start()
    assert {a.outcome for a in await redeem(engine, batch_id, 50)} == {Outcome.NOT_READY}
    await engine.aclose()


async def test_refusals_without_a_connection_wait_a_moment_for_each_other(settings: Settings, stores: Stores) -> None:
    """Clients that repeat at once would otherwise take the processor from the recovery that they wait for."""
    engine = Engine(settings.model_copy(update={"max_waiting": 2}), stores.incarnations)
    await engine.start()
    ref = engine.pool_ref(uuid.uuid4(), CLIENT)
    asked = [asyncio.create_task(engine.redeem(ref, uuid.uuid4().bytes)) for _ in range(3)]
    await asyncio.sleep(0)
    # The third one is beyond the bound of those that wait.
    assert [one.done() for one in asked] == [False, False, True]
    assert await asyncio.gather(*asked) == [NOT_READY] * 3
    late = asyncio.create_task(engine.redeem(ref, uuid.uuid4().bytes))
    await asyncio.sleep(0)
    await engine.aclose()
    assert await late == NOT_READY

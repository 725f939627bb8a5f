"""An engine on a Redis that a test may stop, wipe or replace, and what a recovery leaves in the tables."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch
from uuid import UUID

from issuer.batches.batch import NewBatch
from issuer.batches.rules import parse_rules
from issuer.batches.store import create_batch
from issuer.contract.keys import GROUP, partition_keys
from issuer.contract.scripts import ACK_EVENTS
from issuer.engine.calls import Answer
from issuer.engine.engine import Engine
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.pools.top_up import top_up
from issuer.recovery.opening import GuardedStores
from issuer.registration.registrar import Registrar
from issuer.registration.registrations import RegisteredProcess, leave, register
from issuer.settings import Settings
from issuer.storage.lineage import TokenKind, new_token
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.servers import RedisServer

CLIENT = uuid.UUID(int=7)


class SimulatedCrashError(Exception):
    """Stands for a crash: the recovery ends at the step that raises it."""


async def make_batch(stores: Stores, codes: int, rules: dict[str, object] | None = None) -> UUID:
    batch = await create_batch(stores, NewBatch("drop", parse_rules(rules)), actor="test")
    pool_id = await stores.postgres.fetchval(
        "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3) RETURNING id", batch.id, CLIENT, codes
    )
    # The client has each code once: those of a second batch have a suffix.
    suffix = f"-{pool_id}" if await stores.postgres.fetchval("SELECT EXISTS (SELECT FROM codes)") else ""
    await stores.postgres.execute(
        "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
        " SELECT $1, s, $2, $4, 'CODE' || s || $5 FROM generate_series(1, $3) s",
        pool_id, batch.id, codes, CLIENT, suffix,
    )  # fmt: skip
    await top_up(stores)
    return batch.id


@asynccontextmanager
async def engine_of(settings: Settings, stores: Stores) -> AsyncIterator[Engine]:
    """An engine as an API process has it: registered, with a receipt journal unless the settings turn it off."""
    engine = Engine(settings, stores.incarnations)
    await engine.start()
    async with Registrar(settings, stores.postgres, stores.incarnations, engine).registered():
        try:
            await ready(engine)
            yield engine
        finally:
            await engine.aclose()


@asynccontextmanager
async def crashing_engine_of(settings: Settings, stores: Stores) -> AsyncIterator[Engine]:
    """As `engine_of`, but the process is killed at the end: it settles nothing and leaves its journal."""

    async def crash(registrar: Registrar) -> None:
        for journal in registrar.journals():
            journal.close()

    with patch.object(Registrar, "_end", crash):
        async with engine_of(settings, stores) as engine:
            yield engine


async def kill_unheard(stores: Stores) -> None:
    """As a process without a journal that was killed: what it answered in the blessed epoch is not known."""
    blessed = await stores.incarnations.refresh()
    assert blessed is not None
    async with stores.postgres.acquire() as connection:
        process = RegisteredProcess()
        assert await register(connection, process, blessed.epoch)
        await leave(stores.postgres, process, blessed.epoch, {})


async def ready(engine: Engine) -> None:
    async with asyncio.timeout(30):
        while not engine.is_ready:
            await asyncio.sleep(0.01)


async def redeem(engine: Engine, batch_id: UUID, count: int, key: str | None = None) -> list[Answer]:
    ref = engine.pool_ref(batch_id, CLIENT)
    customers = [uuid.uuid4().bytes for _ in range(count)]
    return await asyncio.gather(*[engine.redeem(ref, customer, idempotency_key=key) for customer in customers])


async def drain(stores: Stores) -> None:
    """What the worker does, once."""
    for partition in range(stores.redis.partitions):
        keys = partition_keys(partition)
        entries: Any = await stores.redis.client.xrange(keys.stream)
        for stream_id, fields in entries:
            entry = StreamEntry(partition, stream_id.decode(), fields)
            async with stores.postgres.acquire() as connection, connection.transaction():
                await record_entries(connection, [entry])
                token = await new_token(connection, TokenKind.RECORD)
            acked = [GROUP, token.hex, stream_id, entry.announced]
            await stores.redis.run(ACK_EVENTS, [keys.state, keys.stream], acked)


async def seqs(stores: Stores, table: str) -> list[int]:
    return [row["seq"] for row in await stores.postgres.fetch(f"SELECT seq FROM {table} ORDER BY seq")]


async def until(holds: Callable[[], object]) -> None:
    """Wait until the condition holds, which what runs beside the test brings about."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


async def blessed_again(stores: GuardedStores) -> None:
    """Waits until the guardian has recovered the server."""
    async with asyncio.timeout(30):
        while True:
            try:
                await stores.guardian.check()
                return
            except RedisUnavailableError:
                await asyncio.sleep(0.02)


async def lose_data(server: RedisServer, stores: GuardedStores, engine: Engine) -> None:
    """Wipe the server under a running process. Returns once it is recovered, its pools are filled and it issues."""
    server.restart_empty()
    await blessed_again(stores)
    await top_up(stores)
    await ready(engine)


async def verdict(stores: Stores) -> str:
    return str(await stores.postgres.fetchval("SELECT verdict FROM incarnations ORDER BY epoch DESC LIMIT 1"))

"""What the API processes were told by Redis, as evidence for a recovery: data that know less than that are old data.

A snapshot of Redis' disk that was put back looks just like the data of a server that was restarted, and the ledger may
be too far behind to tell. But every answer carries its partition's clock, the time of its last redemption, and that
never goes back. Each process remembers the highest it saw and tells Postgres, every second and again when its
connection has ended.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from issuer.recovery.inspection import PartitionState
from issuer.storage.postgres import Connection, Pool, PostgresUnavailableError, unavailable_translated

if TYPE_CHECKING:
    from issuer.engine.engine import Engine
    from issuer.recovery.guardian import Guardian

log = structlog.get_logger()

TESTIFY_S: Final = 1.0
AGAIN_S: Final = 0.1
"""First pause without a connection: a recovery may wait for our word."""
SILENT_FOR_S: Final = 2.5
"""A process that has not been heard of for so long is dead; what it said last still counts."""
HEAR_LIMIT_S: Final = 15.0
"""Longer than any exchange with Redis: who still has a connection then has it to a server that lives on."""


_TESTIFY: Final = """
INSERT INTO witnesses (name, seen_at, state, epoch, clocks_ms) VALUES ($1, clock_timestamp(), $2, $3, $4)
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, state = excluded.state, epoch = excluded.epoch,
  clocks_ms = excluded.clocks_ms"""


class Witness:
    """Testifies for one API process."""

    def __init__(self, postgres: Pool, engine: Engine, guardian: Guardian) -> None:
        self._postgres = postgres
        self._engine = engine
        self._guardian = guardian
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    @asynccontextmanager
    async def testifying(self) -> AsyncIterator[None]:
        """In the background, until the block ends: the engine must be closed by then."""
        task = asyncio.create_task(self._run(), name="witness")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            with suppress(PostgresUnavailableError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._testify("gone")

    async def _run(self) -> None:
        pause_s, trouble = AGAIN_S, ""
        while True:
            said = self._engine.testimony()
            attached = said.attached
            if attached and self._guardian.doubts(said.run_id):
                # An idle connection does not notice that its server is gone; a recovery would wait for us in vain.
                self._engine.doubt()
            try:
                await self._testify("attached" if attached else "detached")
            except PostgresUnavailableError:
                pass
            except Exception as error:
                if str(error) != trouble:
                    log.exception("this process cannot testify")
                trouble = str(error)
            else:
                trouble = ""
            if attached:
                pause_s = AGAIN_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(TESTIFY_S):
                        await self._engine.detached.wait()
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, TESTIFY_S)

    async def _testify(self, state: str) -> None:
        said = self._engine.testimony()
        clocks = orjson.dumps({str(partition): ms for partition, ms in said.clocks_ms.items()}).decode()
        async with unavailable_translated():
            await self._postgres.execute(_TESTIFY, self._name, state, said.epoch, clocks)


async def forget_witnesses(postgres: Pool) -> None:
    """Deletes what was said of servers that were replaced since; a recovery asks for the last one's only.

    What was said of that one stays, also by processes that ended long ago: it counts until the next recovery.
    """
    async with unavailable_translated():
        await postgres.execute(_FORGET)


_FORGET: Final = """
DELETE FROM witnesses
WHERE epoch < (SELECT max(epoch) FROM incarnations) AND seen_at < now() - interval '1 hour'"""

_SOMEONE_SILENT: Final = """
SELECT EXISTS (
  SELECT FROM witnesses WHERE epoch = $1 AND state <> 'gone' AND (state = 'attached' OR seen_at < $2)
  AND seen_at > clock_timestamp() - $3::float8 * interval '1 second')"""


async def contradictions(
    postgres: Connection, epoch: int, states: Sequence[PartitionState], *, wait: bool = True
) -> list[str]:
    """Why these data (the state of each partition) cannot be all that the server of `epoch` had; [] if they can.

    With `wait`, every API process that lives has said its last word on that server first.
    """
    began = await postgres.fetchval("SELECT clock_timestamp()")
    try:
        async with asyncio.timeout(HEAR_LIMIT_S):
            while wait and await postgres.fetchval(_SOMEONE_SILENT, epoch, began, SILENT_FOR_S):
                await asyncio.sleep(0.05)
    except TimeoutError:
        return ["an API process still has a connection to the server before"]
    seen_ms: dict[int, int] = {}
    for row in await postgres.fetch("SELECT clocks_ms FROM witnesses WHERE epoch = $1", epoch):
        for partition, ms in orjson.loads(row["clocks_ms"]).items():
            seen_ms[int(partition)] = max(seen_ms.get(int(partition), 0), ms)
    behind = [p for p, ms in seen_ms.items() if int(states[p].get("clock", 0)) < ms]
    if behind:
        return [
            f"{len(behind)} of {len(states)} partitions do not know of redemptions that an API process has answered"
        ]
    return []

"""Witnesses: what the API processes have seen of Redis' data, reported to Postgres as evidence for a recovery.

A disk snapshot that was put back looks like the data of a restarted server, and the ledger may be too far behind to
show the difference. But every answer of Redis carries its partition's serial, which counts all facts, and the processes
raise a counter in each partition twice a second, its beat, whether or not anything is redeemed. Each process reports
the highest it has seen (`issuer.storage.floors`) twice a second, and again when its connection has ended. Data below
that are older.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from issuer.storage.postgres import Connection, Pool, PostgresUnavailableError, unavailable_translated

if TYPE_CHECKING:
    from issuer.engine.engine import Engine
    from issuer.recovery.guardian import Guardian

log = structlog.get_logger()

TESTIFY_EVERY_S: Final = 0.5
FIRST_RETRY_S: Final = 0.1
"""First pause without a connection: a recovery may be waiting for this report."""
SILENT_FOR_S: Final = 2.5
"""A process that has not reported for this long has ended. Its last report still counts."""
WAIT_LIMIT_S: Final = 15.0
"""Longer than any exchange with Redis. The server of a process that is still attached then still runs."""

_TESTIFY: Final = """
INSERT INTO witnesses (name, seen_at, state, epoch, serials, beats) VALUES ($1, clock_timestamp(), $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, state = excluded.state, epoch = excluded.epoch,
  serials = excluded.serials, beats = excluded.beats"""


class Witness:
    """The witness of one API process."""

    def __init__(self, postgres: Pool, engine: Engine, guardian: Guardian) -> None:
        self._postgres = postgres
        self._engine = engine
        self._guardian = guardian
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    @asynccontextmanager
    async def testifying(self) -> AsyncIterator[None]:
        """Report in the background until the block ends. The engine must be closed by then."""
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
        pause_s, trouble = FIRST_RETRY_S, ""
        while True:
            testimony = self._engine.testimony()
            attached = testimony.attached
            if attached and self._guardian.doubts(testimony.run_id):
                # An idle connection does not notice that its server is gone. The recovery would wait for this process.
                self._engine.doubt()
            try:
                await self._testify("attached" if attached else "detached")
            except PostgresUnavailableError:
                pass
            except Exception as error:
                if str(error) != trouble:
                    log.exception("cannot report to Postgres what Redis has answered; retrying")
                trouble = str(error)
            else:
                trouble = ""
            if attached:
                pause_s = FIRST_RETRY_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(TESTIFY_EVERY_S):
                        await self._engine.detached.wait()
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, TESTIFY_EVERY_S)

    async def _testify(self, state: str) -> None:
        testimony = self._engine.testimony()
        async with unavailable_translated():
            await testify(self._postgres, self._name, state, testimony.epoch, testimony.serials, testimony.beats)


async def testify(
    postgres: Pool | Connection, name: str, state: str, epoch: int, serials: Mapping[str, int], beats: Mapping[str, int]
) -> None:
    """Store one report, in the place of the last one of the same name."""
    seen = (orjson.dumps(numbers).decode() for numbers in (serials, beats))
    await postgres.execute(_TESTIFY, name, state, epoch, *seen)


async def forget_witnesses(postgres: Pool) -> None:
    """Delete reports about servers that were replaced since: a recovery reads those about the last one only.

    Reports about the last server stay until the next recovery, also those of processes that ended long ago.
    """
    async with unavailable_translated():
        await postgres.execute(_FORGET)


_FORGET: Final = """
DELETE FROM witnesses
WHERE epoch < (SELECT max(epoch) FROM incarnations) AND seen_at < now() - interval '1 hour'"""

_IS_OUTSTANDING: Final = """
SELECT EXISTS (
  SELECT FROM witnesses WHERE epoch = $1 AND state <> 'gone' AND (state = 'attached' OR seen_at < $2)
  AND seen_at > clock_timestamp() - $3::float8 * interval '1 second')"""


async def wait_for_reports(postgres: Connection, epoch: int) -> bool:
    """Wait until every running API process has made its last report on the server of `epoch`: it is detached from it
    and has reported since. False: one is still connected to that server."""
    began = await postgres.fetchval("SELECT clock_timestamp()")
    try:
        async with asyncio.timeout(WAIT_LIMIT_S):
            while await postgres.fetchval(_IS_OUTSTANDING, epoch, began, SILENT_FOR_S):
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True

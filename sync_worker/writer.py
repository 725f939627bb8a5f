"""Writing entries to Postgres: one transaction a batch, on a connection of the worker's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg
import structlog

from issuer.ledger.anomalies import Anomaly, record_anomalies
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.ledger.record import RecordResult
from issuer.settings import Settings
from issuer.storage.incarnation import Blessed
from issuer.storage.postgres import SESSION, Connection

log = structlog.get_logger()

TROUBLE: Final = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, asyncio.TimeoutError,
)  # fmt: skip
"""Whatever Postgres or the way to it can say. Data to blame never get here: `record_entries` buries them."""


class ForeignIncarnationError(Exception):
    """The entries were read from a server that is not the blessed one (any more). Nothing was written."""


class LedgerWriter:
    """One connection to Postgres, opened when needed and cut, never reused, after any trouble."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None

    async def write(
        self, blessed: Blessed, entries: Sequence[StreamEntry], vanished: Sequence[tuple[int, str]] = ()
    ) -> RecordResult:
        """Records the entries (or buries them) and returns when that is committed.

        `blessed` is the pair that the entries were read under. Raises ForeignIncarnationError if it is not the blessed
        one any more, and TROUBLE: then it is not known whether they were written, and to write them again is right.
        """
        try:
            connection = await self._connected()
            async with connection.transaction():
                await _check_blessed(connection, blessed)
                recorded = await record_entries(connection, entries)
                if vanished:
                    recorded.anomalies += len(vanished)
                    await record_anomalies(connection, [_vanished(p, i, blessed.epoch) for p, i in vanished])
        except ForeignIncarnationError:
            raise
        except BaseException:
            self._cut()
            raise
        return recorded

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            limit_ms = int(self._settings.postgres_timeout_s * 1000)
            self._connection = await asyncpg.connect(
                self._settings.database_url.get_secret_value(),
                timeout=min(10.0, self._settings.postgres_timeout_s),
                command_timeout=self._settings.postgres_timeout_s,
                # An ack takes the event out of Redis, so the commit must be on disk: SESSION says so.
                server_settings=SESSION
                | {
                    "application_name": "issuer sync_worker",
                    # Ends on the server's side what we gave up on ours, and what a frozen worker holds.
                    "statement_timeout": str(limit_ms),
                    "lock_timeout": str(max(1, limit_ms * 9 // 10)),
                    "idle_in_transaction_session_timeout": str(limit_ms),
                    "jit": "off",
                },
            )
        return self._connection

    def _cut(self) -> None:
        # A connection that timed out says that it is open; left to the garbage collector it crashed the interpreter.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=2)
        except TROUBLE:
            connection.terminate()


async def _check_blessed(connection: Connection, blessed: Blessed) -> None:
    """Holds the row until the end of the transaction: a recovery, which begins by changing it, waits for us, and what
    it then counts as missing is not on its way into the ledger."""
    row = await connection.fetchrow("SELECT epoch, run_id FROM installation FOR SHARE")
    if row is None or (row["epoch"], row["run_id"]) != (blessed.epoch, blessed.run_id):
        raise ForeignIncarnationError(f"epoch {blessed.epoch} is not the blessed one")


def _vanished(partition: int, stream_id: str, epoch: int) -> Anomaly:
    detail = {"partition": partition, "stream_id": stream_id, "epoch": epoch}
    return Anomaly("event_vanished", None, None, detail)

"""Write entries to Postgres: one transaction per batch, on the worker's own connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import structlog

from issuer.ledger.anomalies import Anomaly, record_anomalies
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.ledger.record import RecordResult
from issuer.settings import Settings
from issuer.storage.database_identity import refuse_copy
from issuer.storage.incarnation import Blessed
from issuer.storage.lineage import UNKNOWN_AMONG, IncidentError, Lineage, report_unknown
from issuer.storage.postgres import SESSION, Connection, PostgresUnavailableError, connect

log = structlog.get_logger()

WRITE_ERRORS: Final = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, asyncio.TimeoutError,
    PostgresUnavailableError,
)  # fmt: skip
"""Every error of Postgres or of the connection to it, and a copied database.

Bad data cause none: `record_entries` stores dead letters.
"""


class ForeignIncarnationError(Exception):
    """The entries were read from a server that is not, or no longer, the blessed one. Nothing was written."""


class LedgerWriter:
    """One connection to Postgres, opened when needed. After any error it is terminated, not reused."""

    def __init__(self, settings: Settings, lineage: Lineage) -> None:
        self._settings = settings
        self._lineage = lineage
        self._connection: Connection | None = None

    async def write(
        self, blessed: Blessed, entries: Sequence[StreamEntry], vanished: Sequence[tuple[int, str]] = ()
    ) -> tuple[RecordResult, UUID]:
        """Record the entries, in the ledger or as dead letters, and commit. Return also the token of the commit.

        `blessed` is the pair that the entries were read under. Raises ForeignIncarnationError if it is no longer the
        blessed one; IncidentError if there is an incident, such as that Postgres does not know a token that this
        process met; and WRITE_ERRORS: the outcome is unknown then, and writing the entries again is right.
        """
        tokens = self._lineage.tokens
        try:
            connection = await self._connected()
            try:
                async with connection.transaction():
                    token = await _check_blessed(connection, blessed, tokens)
                    recorded = await record_entries(connection, entries)
                    if vanished:
                        recorded.anomalies += len(vanished)
                        await record_anomalies(connection, [_vanished(p, i, blessed.epoch) for p, i in vanished])
            except _UnknownTokensError as error:
                raise IncidentError(await report_unknown(connection, error.tokens, "a worker")) from error
        except (ForeignIncarnationError, IncidentError):
            raise
        except BaseException:
            self._terminate()
            raise
        self._lineage.confirm(tokens)
        self._lineage.last = token
        return recorded, token

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            limit_ms = int(self._settings.postgres_timeout_s * 1000)
            self._connection = await connect(
                self._settings,
                timeout_s=min(10.0, self._settings.postgres_timeout_s),
                limit_s=self._settings.postgres_timeout_s,
                # An ack removes the event from Redis, so the commit must be on disk: SESSION sets synchronous_commit.
                session=SESSION
                | {
                    "application_name": "issuer sync_worker",
                    # Postgres ends what this process has given up, and what a frozen worker holds.
                    "statement_timeout": str(limit_ms),
                    "lock_timeout": str(max(1, limit_ms * 9 // 10)),
                    "idle_in_transaction_session_timeout": str(limit_ms),
                    "jit": "off",
                },
            )
            await refuse_copy(self._connection)
        return self._connection

    def _terminate(self) -> None:
        # A connection that timed out still reports itself open. Left to the garbage collector, it crashes the
        # interpreter.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=2)
        except WRITE_ERRORS:
            connection.terminate()


class _UnknownTokensError(Exception):
    """This Postgres does not know tokens that the worker met."""

    def __init__(self, tokens: Sequence[UUID]) -> None:
        super().__init__()
        self.tokens = tokens


# One statement for all of it: it runs in every transaction.
_CHECK: Final = f"""
WITH written AS (INSERT INTO lineage (token, kind) VALUES ($1, 'record'))
SELECT epoch, run_id, incident, {UNKNOWN_AMONG.format(tokens="$2")} AS unknown FROM installation FOR SHARE"""


async def _check_blessed(connection: Connection, blessed: Blessed, tokens: Sequence[UUID]) -> UUID:
    """Check the pair and the lineage, and lock their row until the end of the transaction. Return its token.

    A recovery starts with an update of the row, so it waits for this transaction; whatever it then counts as missing is
    not on its way into the ledger.
    """
    token = uuid4()
    row = await connection.fetchrow(_CHECK, token, tokens)
    if row is not None and row["incident"]:
        raise IncidentError(row["incident"])
    if row is not None and row["unknown"]:
        raise _UnknownTokensError(row["unknown"])
    if row is None or (row["epoch"], row["run_id"]) != (blessed.epoch, blessed.run_id):
        raise ForeignIncarnationError(f"epoch {blessed.epoch} is not the blessed one")
    return token


def _vanished(partition: int, stream_id: str, epoch: int) -> Anomaly:
    detail = {"partition": partition, "stream_id": stream_id, "epoch": epoch}
    return Anomaly("event_vanished", None, None, detail)

"""Replay receipt journals: record their receipts in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from issuer.contract.events import NewerEventError
from issuer.journal.segments import host_name, read_columns, segments
from issuer.ledger.record import RecordResult, record_redemptions
from issuer.storage.lineage import refuse_incident
from issuer.storage.postgres import AnyConnection, Connection

log = structlog.get_logger()


async def replay(connection: AnyConnection, directory: Path) -> RecordResult:
    """Record every receipt of a directory in the ledger. A repetition changes nothing. Raises IncidentError."""
    total = RecordResult()
    for path in segments(directory):
        try:
            for columns in read_columns(path):
                async with connection.transaction():
                    # Until the commit no recovery quarantines: it sees all of these redemptions or none.
                    await refuse_incident(connection)
                    recorded = await record_redemptions(connection, columns)
                total.inserted += recorded.inserted
                total.duplicates += recorded.duplicates
                total.contradicted += recorded.contradicted
                total.anomalies += recorded.anomalies
                total.rejected += recorded.rejected
        except FileNotFoundError:
            continue  # deleted meanwhile, because all of it is in the ledger
        except NewerEventError as error:
            # It stays where it is: the version that has written it replays it.
            log.error("a receipt journal cannot be replayed by this version", segment=path.name, error=str(error))
    return total


async def replay_host(connection: Connection, directory: Path, epoch: int) -> RecordResult:
    """Replay this host's journal, and note that it was replayed for the recovery of `epoch`."""
    recorded = await replay(connection, directory) if segments(directory) else RecordResult()
    await connection.execute(
        "UPDATE journals SET replayed_epoch = greatest(replayed_epoch, $2) WHERE host = $1", host_name(), epoch
    )
    return recorded


_NOT_SEEN: Final = """
SELECT host FROM journals
WHERE replayed_epoch < $1
  AND seen_at >= coalesce((SELECT max(blessed_at) FROM incarnations WHERE epoch < $1), '-infinity')
ORDER BY host"""


async def hosts_not_seen(connection: Connection, epoch: int) -> list[str]:
    """Return the hosts that may hold receipts of the incarnation before `epoch` and have not replayed them."""
    return [row["host"] for row in await connection.fetch(_NOT_SEEN, epoch)]

"""Replay receipt journals: record their receipts in the ledger, and settle the registrations of dead processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from issuer.contract.events import NewerEventError
from issuer.journal.journal import DeadJournal, Journal, dead_journals, find_tokens, host_name, keep_token
from issuer.journal.segments import are_recorded, find_recorded, read_columns, segments
from issuer.ledger.record import RecordResult, record_redemptions
from issuer.registration.registrations import EVERY_EPOCH, settle
from issuer.settings import Settings
from issuer.storage.lineage import Lineage, TokenKind, accept_unknown, new_token, refuse_incident, refuse_unknown
from issuer.storage.postgres import AnyConnection, Connection, own_connection

log = structlog.get_logger()

REPLAY_TIMEOUT_S: Final = 60.0


async def replay(connection: AnyConnection, journal: Path) -> RecordResult:
    """Record every receipt of a journal in the ledger. A repetition changes nothing.

    Raises NewerEventError when a later version of this program has written the journal, and IncidentError.
    """
    total = RecordResult()
    for path in segments(journal):
        for columns in read_columns(path):
            # Most of it is recorded: a look-up costs a fraction of the comparison.
            if await are_recorded(connection, columns):
                total.duplicates += len(columns)
                continue
            async with connection.transaction():
                # Until the commit no recovery decides: it sees all of these redemptions or none.
                await refuse_incident(connection)
                total.add(await record_redemptions(connection, columns))
    return total


async def settle_dead(
    settings: Settings, installation: UUID, refused: set[Path] | None = None, *, restored: bool = False
) -> RecordResult:
    """Replay the journals of this host's dead processes, and settle their registrations. A repetition changes nothing.

    A journal of another boot may lack its end, so its registrations stay open. So do those of one with receipts that
    cannot be recorded: it is kept, and added to `refused`, whose journals are left alone. Raises IncidentError, also
    when Postgres does not know a token that the journals keep, unless it was `restored`, as an operator knows.
    """
    total = RecordResult()
    if settings.journals is None:
        return total
    with dead_journals(settings.journals, installation) as found:
        journals = [journal for journal in found if refused is None or journal.directory not in refused]
        if not journals:
            return total
        async with own_connection(settings, timeout_s=REPLAY_TIMEOUT_S) as connection:
            tokens = find_tokens(settings.journals, installation)
            if restored:
                await accept_unknown(connection, tokens)
            else:
                await refuse_unknown(connection, tokens, f"the receipt journals of {host_name()}")
            for journal in journals:
                if not await _settle_dead(connection, journal, total) and refused is not None:
                    refused.add(journal.directory)
    if total.inserted:
        log.warning("recorded redemptions that Redis had lost, from receipt journals", redemptions=total.inserted)
    return total


async def _settle_dead(connection: Connection, journal: DeadJournal, total: RecordResult) -> bool:
    name = str(journal.directory)
    try:
        recorded = await replay(connection, journal.directory)
    except NewerEventError as error:
        log.error(
            "a receipt journal is kept until a later version of this program reads it", journal=name, why=str(error)
        )
        return False
    except ValueError as error:
        log.error("a receipt journal cannot be read and is kept", journal=name, why=str(error))
        return False
    total.add(recorded)
    if recorded.rejected:
        log.error(
            "the ledger refuses receipts of a journal, which is kept", journal=name, receipts=len(recorded.rejected)
        )
        return False
    if journal.is_complete:
        token = await settle(connection, journal.head.id, EVERY_EPOCH, {})
    else:
        log.warning("a receipt journal of an earlier boot of this host may lack its end", journal=name)
        token = await commit_token(connection)
    if not keep_token(journal.directory.parent, journal.head.installation, token):
        return False
    journal.remove()
    return True


async def commit_token(connection: AnyConnection) -> UUID:
    """Commit a token: this Postgres has what the connection has found in the ledger. Raises IncidentError."""
    async with connection.transaction():
        await refuse_incident(connection)
        return await new_token(connection, TokenKind.RECEIPTS)


async def delete_recorded(connection: AnyConnection, journal: Journal, lineage: Lineage) -> int:
    """Delete the closed segments of a journal that are in the ledger. Return how many.

    The head of the journal has the token of a commit behind that before. Raises IncidentError and JournalError.
    """
    await refuse_unknown(connection, lineage.tokens, f"a process on {host_name()}")
    recorded = await find_recorded(connection, journal.directory)
    if recorded:
        lineage.last = await commit_token(connection)
        await asyncio.to_thread(journal.note_token, lineage.last)
        for path in recorded:
            path.unlink(missing_ok=True)
    return len(recorded)

"""Replay receipt journals: record their receipts in the ledger, and settle the registrations of dead processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from issuer.contract.events import NewerEventError
from issuer.journal.dead_journals import DeadJournal, dead_journals
from issuer.journal.journal import Journal, find_tokens, host_name, keep_token
from issuer.journal.segments import are_recorded, find_recorded, read_columns, segments
from issuer.ledger.record import RecordResult, record_redemptions
from issuer.registration.registrations import EVERY_EPOCH, settle
from issuer.settings import Settings
from issuer.storage.lineage import (
    Lineage,
    TokenKind,
    accept_unknown,
    new_token,
    refuse_fenced_off,
    refuse_incident,
    refuse_unknown,
)
from issuer.storage.postgres import JOURNAL_LOCK, AnyConnection, Connection, lock_of, own_connection

log = structlog.get_logger()

REPLAY_TIMEOUT_S: Final = 60.0


async def replay(connection: AnyConnection, journal: Path, *, within: int | None = None) -> RecordResult:
    """Record every receipt of a journal in the ledger. A repetition changes nothing.

    Raises NewerEventError when a later version of this program has written the journal, IncidentError, and
    FencedOffError once the epoch of Postgres is another one than `within`.
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
                if within is not None:
                    await refuse_fenced_off(connection, within)
                total.add(await record_redemptions(connection, columns))
    return total


_EPOCH: Final = "SELECT epoch FROM installation"
# Of a process that is frozen meanwhile, for which others with `yields` would wait.
_LIMIT_IDLE: Final = "SET idle_session_timeout = '60 s'; SET idle_in_transaction_session_timeout = '60 s'"
_LOCK: Final = "SELECT pg_try_advisory_lock($1, $2)"


async def settle_dead(
    settings: Settings,
    installation: UUID,
    refused: set[Path] | None = None,
    *,
    epoch: int | None = None,
    restored: bool = False,
    yields: bool = False,
) -> RecordResult:
    """Replay the journals of this host's dead processes, and settle their registrations. A repetition changes nothing.

    A journal of another boot may lack its end, so its registrations stay open. So do those of one with receipts that
    cannot be recorded: it is kept, and added to `refused`, whose journals are left alone.

    Several processes may do this at once, so that a frozen one keeps no journal from the others; with `yields` this one
    leaves those that another one works on. It ends with FencedOffError behind a fence: what it found out was true in
    `epoch` (None: the present one).

    Raises IncidentError, also when Postgres does not know a token that the journals keep, unless it was `restored`, as
    an operator knows.
    """
    total = RecordResult()
    if settings.journals is None:
        return total
    journals = [
        journal
        for journal in dead_journals(settings.journals, installation)
        if refused is None or journal.directory not in refused
    ]
    if not journals:
        return total
    async with own_connection(settings, timeout_s=REPLAY_TIMEOUT_S) as connection:
        await connection.execute(_LIMIT_IDLE)
        tokens = find_tokens(settings.journals, installation)
        if restored:
            await accept_unknown(connection, tokens)
        else:
            await refuse_unknown(connection, tokens, f"the receipt journals of {host_name()}")
        within = await connection.fetchval(_EPOCH) if epoch is None else epoch
        for journal in journals:
            is_first = await connection.fetchval(_LOCK, *lock_of(JOURNAL_LOCK, journal.head.id))
            if yields and not is_first:
                continue
            if not await _settle_dead(connection, journal, within, total) and refused is not None:
                refused.add(journal.directory)
    if total.inserted:
        log.warning("recorded redemptions that Redis had lost, from receipt journals", redemptions=total.inserted)
    return total


async def _settle_dead(connection: Connection, journal: DeadJournal, epoch: int, total: RecordResult) -> bool:
    """Settle one journal. False: it is kept, and another attempt would have the same result."""
    name = str(journal.directory)
    try:
        recorded = await replay(connection, journal.directory, within=epoch)
    except NewerEventError as error:
        log.error(
            "a receipt journal is kept until a later version of this program reads it", journal=name, why=str(error)
        )
        return False
    except ValueError as error:
        log.error("a receipt journal cannot be read and is kept", journal=name, why=str(error))
        return False
    except FileNotFoundError:
        if journal.is_there:
            raise
        recorded = RecordResult()
    total.add(recorded)
    if recorded.rejected:
        log.error(
            "the ledger refuses receipts of a journal, which is kept", journal=name, receipts=len(recorded.rejected)
        )
        return False
    if not journal.is_there:
        # Another process has settled it. This one may have read a part of it only.
        return True
    token = await _settle(connection, journal, epoch)
    if not keep_token(journal.directory.parent, journal.head.installation, token):
        return False
    journal.remove()
    return True


async def _settle(connection: Connection, journal: DeadJournal, epoch: int) -> UUID:
    async with connection.transaction():
        await refuse_fenced_off(connection, epoch)
        if journal.is_complete:
            return await settle(connection, journal.head.id, EVERY_EPOCH, {})
        log.warning(
            "a receipt journal of an earlier boot of this host may lack its end", journal=str(journal.directory)
        )
        return await commit_token(connection)


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

"""What was answered and may not be in the dump: copies of the receipt journals of this host, and the backlog of Redis.

Both are copied before the dump. A fact leaves the journal and the stream only once it is in the ledger, so what was
answered before the backup began is in the copies or in the dump; what is in both is recorded once. The other way round,
a fact that is recorded in between would be in neither.

A copy has the receipts of a journal, not its head and lock: it lacks what is answered later, so it must never settle a
registration.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

import structlog

from issuer.backups.directory import create_private, write_private
from issuer.contract.events import RedemptionColumns, UndecodableEventError, decode_columns
from issuer.journal.journal import JournalHead
from issuer.journal.segments import Receipt, segments
from issuer.ledger.entries import StreamEntry
from issuer.recovery.inspection import foreign_installations, inspect_partitions
from issuer.recovery.rebuild import read_stream
from issuer.settings import Settings
from issuer.storage.redis_link import Link, RedisUnavailableError

log = structlog.get_logger()

BACKLOG: Final = "backlog"
_SEGMENT: Final = "00000001.closed"


def copy_journals(directory: Path | None, installation: UUID, into: Path) -> None:
    """Copy the segments of all journals of the installation. A record that is being written is cut, and ignored."""
    for head in sorted(directory.glob("*/head")) if directory is not None else ():
        try:
            if JournalHead.from_json(head.read_bytes()).installation != installation:
                continue
        except (OSError, ValueError):
            continue
        copy = into / head.parent.name
        copy.mkdir(mode=0o700)
        for path in segments(head.parent):
            write_private(copy / path.name, _read_segment(path))


def _read_segment(path: Path) -> bytes:
    # Closed meanwhile, it has the other name; deleted, all of it is in the ledger.
    for present in (path, path.with_suffix(".closed")):
        with suppress(FileNotFoundError):
            return present.read_bytes()
    return b""


async def copy_backlog(settings: Settings, installation: UUID, into: Path) -> int | None:
    """Copy the events in the streams as a segment of receipts. Return the redemptions; None: Redis cannot be read."""
    link = Link(settings, None)
    try:
        await link.open()
        states = await inspect_partitions(link, settings.partitions)
        if foreign_installations(states, installation):
            log.warning("the data in Redis belong to another installation and are not in the backup")
            return None
        (into / BACKLOG).mkdir(mode=0o700)
        with create_private(into / BACKLOG / _SEGMENT) as file:
            return await _copy_streams(link, settings.partitions, file)
    except RedisUnavailableError as error:
        log.warning("Redis cannot be read: its backlog is not in the backup", reason=str(error))
        return None
    finally:
        await link.aclose()


async def _copy_streams(link: Link, partitions: int, file: BinaryIO) -> int:
    count = 0
    for partition in range(partitions):
        async for entries in read_stream(link, partition):
            for entry in entries:
                if (receipt := _receipt_of(entry)) is not None:
                    file.write(receipt.encode())
                    count += receipt.facts
    return count


def _receipt_of(entry: StreamEntry) -> Receipt | None:
    """Return an event as a receipt; None: this version cannot read it, and it stays in the stream alone."""
    try:
        decode_columns(entry.fields, RedemptionColumns())
    except UndecodableEventError as error:
        log.warning("an event cannot be read and is not in the backup", id=entry.stream_id, reason=str(error))
        return None
    fields = entry.fields
    at_ms, call_id = int(fields[b"t"]), UUID(fields[b"c"].decode()).hex
    return Receipt(entry.epoch, entry.partition, at_ms, call_id, entry.serial, entry.announced, fields[b"d"])

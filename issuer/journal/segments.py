"""The segments of receipt journals: second copies of all redemptions on the API's own disk, which outlive a lost Redis.

A process appends to segment files of its own (`issuer.journal.journal`). A closed segment is deleted once all of it is
in the ledger. A repeated replay changes nothing.

A record is ``length, crc32`` (4 bytes each, big-endian) and that many bytes: ``version epoch partition ms call_id
serial facts\\n`` and the event data as `issuer.contract.events` describes them; the version is that of the events. A
record that is cut or damaged ends its segment: nothing after it was answered.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from issuer.contract.events import EVENT_FORMAT, RedemptionColumns, check_version, decode_redemptions
from issuer.storage.postgres import AnyConnection

log = structlog.get_logger()

SEGMENT_BYTES: Final = 4 * 1024 * 1024
SEGMENT_S: Final = 10.0
"""A segment is closed when it is this large or this old, so that it can be deleted soon: a recovery reads the rest."""
BATCH_SIZE: Final = 5_000
_LOOK_SIZE: Final = 500
_MOST_UNRECORDED: Final = 8

_HEAD = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was answered with codes: an event's data, and the fields of the stream entry beside them.

    Of what one script call granted, or of one grant that was answered again (`issuer.engine.receipts`), with the epoch,
    time and serial of that grant. `serial`: of the first of its `facts`. `call_id` empty: not known.
    """

    epoch: int
    partition: int
    at_ms: int
    call_id: str
    serial: int
    facts: int
    data: bytes

    def encode(self) -> bytes:
        head = f"{EVENT_FORMAT} {self.epoch} {self.partition} {self.at_ms} {self.call_id} {self.serial} {self.facts}\n"
        body = head.encode() + self.data
        return _HEAD.pack(len(body), zlib.crc32(body)) + body

    @classmethod
    def decode(cls, body: bytes) -> Receipt:
        """Decode a record. Raises NewerEventError when a later version of this program has written it."""
        head, _, data = body.partition(b"\n")
        version, _, rest = head.decode().partition(" ")
        check_version(int(version))
        epoch, partition, at_ms, call_id, serial, facts = rest.split(" ")
        return cls(int(epoch), int(partition), int(at_ms), call_id, int(serial), int(facts), data)

    def add_to(self, columns: RedemptionColumns) -> None:
        """Append the redemptions to `columns`. Raises ValueError when the data are not those of an event."""
        call_id = UUID(hex=self.call_id) if self.call_id else None
        for redemption in decode_redemptions(
            self.data, epoch=self.epoch, at_ms=self.at_ms, call_id=call_id, serial=self.serial
        ):
            columns.append(redemption)


def segments(directory: Path) -> list[Path]:
    """Return all segments of a journal, closed or not."""
    return sorted(path for path in directory.glob("*") if path.suffix in (".open", ".closed"))


def read_segment(path: Path) -> Iterator[Receipt]:
    """Yield the receipts of a segment up to the first that is cut or damaged."""
    with path.open("rb") as file:
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, checksum = _HEAD.unpack(head)
            body = file.read(length) if length <= SEGMENT_BYTES else b""
            if len(body) != length or zlib.crc32(body) != checksum:
                log.warning("journal segment ends in a damaged record; ignoring the rest", segment=path.name)
                return
            yield Receipt.decode(body)


def read_columns(path: Path, *, size: int = BATCH_SIZE) -> Iterator[RedemptionColumns]:
    """Yield the receipts of a segment as columns for the ledger, in batches of `size` redemptions or few more."""
    columns = RedemptionColumns()
    for receipt in read_segment(path):
        receipt.add_to(columns)
        if len(columns) >= size:
            yield columns
            columns = RedemptionColumns()
    if columns:
        yield columns


_IN_LEDGER: Final = """
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE EXISTS (SELECT FROM ledger r WHERE r.pool_id = e.pool_id AND r.seq = e.seq)
   OR EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = e.pool_id AND d.seq = e.seq)"""


async def find_recorded(connection: AnyConnection, directory: Path) -> list[Path]:
    """Return the closed segments of a journal whose redemptions are all recorded or dead letters.

    Behind some that are not, no further ones are looked at: the ledger gets them in about the same order.
    """
    recorded, others = [], 0
    for path in segments(directory):
        if path.suffix == ".closed" and others < _MOST_UNRECORDED:
            # In small steps: this runs beside redemptions.
            for columns in read_columns(path, size=_LOOK_SIZE):
                if not await are_recorded(connection, columns):
                    others += 1
                    break
            else:
                recorded.append(path)
    return recorded


async def are_recorded(connection: AnyConnection, columns: RedemptionColumns) -> bool:
    """Whether all of these redemptions are recorded or dead letters."""
    return bool(await connection.fetchval(_IN_LEDGER, columns.pool_ids, columns.seqs) == len(columns))

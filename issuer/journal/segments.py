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

import structlog
from asyncpg.pgproto.pgproto import UUID

from issuer.contract.events import EVENT_FORMAT, RedemptionColumns, add_spans, check_version, decode_data
from issuer.storage.postgres import AnyConnection

log = structlog.get_logger()

SEGMENT_BYTES: Final = 4 * 1024 * 1024
SEGMENT_S: Final = 10.0
"""A segment is closed when it is this large or this old, so that it can be deleted soon: a recovery reads the rest."""
BATCH_SIZE: Final = 5_000
_LOOK_SIZE: Final = 1_000
_MOST_UNRECORDED: Final = 8

_HEAD = struct.Struct(">II")


# Not frozen: creating a frozen instance takes three times as long, and each call creates one.
@dataclass(slots=True)
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
        packed = head.encode()
        checksum = zlib.crc32(self.data, zlib.crc32(packed))
        return b"".join((_HEAD.pack(len(packed) + len(self.data), checksum), packed, self.data))

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
        call_id = UUID(self.call_id) if self.call_id else None
        decode_data(self.data, columns, self.epoch, self.at_ms, call_id, self.serial)


def segments(directory: Path) -> list[Path]:
    """Return all segments of a journal, closed or not."""
    return sorted(path for path in directory.glob("*") if path.suffix in (".open", ".closed"))


def closed_segments(directory: Path) -> list[Path]:
    """Return those segments of a journal to which nothing is appended any more."""
    return [path for path in segments(directory) if path.suffix == ".closed"]


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


_IN_LEDGER_OF: Final = """
SELECT coalesce(sum(
  (SELECT count(*) FROM ledger r WHERE r.pool_id = s.pool_id AND r.seq BETWEEN s.first AND s.last)), 0)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS s(pool_id, first, last)"""

_ACCOUNTED_OF: Final = """
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS s(pool_id, first, last),
  generate_series(s.first, s.last) AS e(seq)
WHERE EXISTS (SELECT FROM ledger r WHERE r.pool_id = s.pool_id AND r.seq = e.seq)
   OR EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = s.pool_id AND d.seq = e.seq)"""

_IN_LEDGER: Final = """
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE EXISTS (SELECT FROM ledger r WHERE r.pool_id = e.pool_id AND r.seq = e.seq)
   OR EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = e.pool_id AND d.seq = e.seq)"""


Spans = list[tuple[int, int, int]]
"""Pool id, first and last seq."""


def _read_spans(path: Path) -> Iterator[Spans]:
    """Yield the seqs that the receipts of a segment have, in batches of `_LOOK_SIZE` or few more.

    No redemption is decoded: this is done for each of them, by the process that redeems.
    """
    spans: Spans = []
    facts = 0
    for receipt in read_segment(path):
        add_spans(receipt.data, receipt.facts, spans)
        facts += receipt.facts
        if facts >= _LOOK_SIZE:
            yield spans
            spans, facts = [], 0
    if spans:
        yield spans


def _merged(spans: Spans) -> Spans:
    """Return the same seqs, each of them once."""
    merged: Spans = []
    for pool_id, first, last in sorted(spans):
        if merged and merged[-1][0] == pool_id and first <= merged[-1][2] + 1:
            merged[-1] = (pool_id, merged[-1][1], max(last, merged[-1][2]))
        else:
            merged.append((pool_id, first, last))
    return merged


async def _are_accounted(connection: AnyConnection, spans: Spans) -> bool:
    """Whether all of these seqs are in the ledger or dead letters."""
    merged = _merged(spans)
    seqs = sum(last - first + 1 for _, first, last in merged)
    columns = [list(column) for column in zip(*merged, strict=True)]
    # Nearly always the ledger has all of them, and a range of it is counted at a fraction of the look-ups.
    if await connection.fetchval(_IN_LEDGER_OF, *columns) == seqs:
        return True
    return bool(await connection.fetchval(_ACCOUNTED_OF, *columns) == seqs)


async def find_recorded(connection: AnyConnection, directory: Path) -> list[Path]:
    """Return the closed segments of a journal whose redemptions are all recorded or dead letters.

    Behind some that are not, no further ones are looked at: the ledger gets them in about the same order.
    """
    recorded, others = [], 0
    for path in closed_segments(directory):
        # In small steps: this runs beside redemptions.
        for spans in _read_spans(path):
            if not await _are_accounted(connection, spans):
                others += 1
                break
        else:
            recorded.append(path)
        if others == _MOST_UNRECORDED:
            break
    return recorded


async def are_recorded(connection: AnyConnection, columns: RedemptionColumns) -> bool:
    """Whether all of these redemptions are recorded or dead letters."""
    return bool(await connection.fetchval(_IN_LEDGER, columns.pool_ids, columns.seqs) == len(columns))

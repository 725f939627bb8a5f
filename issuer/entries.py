"""Stream entries on their way into the ledger: decoded, recorded, or kept as dead letters with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from issuer.events import Event, RedemptionColumns, UndecodableEventError, decode_event
from issuer.ledger import AnyConnection, Recorded, record_redemptions


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the stream has it."""

    partition: int
    stream_id: str
    fields: Mapping[bytes, bytes]

    @classmethod
    def of_reply(cls, partition: int, stream_id: bytes, fields: Sequence[bytes] | None) -> Entry:
        """From a raw reply: names and values in turn; none at all for an entry that is gone from the stream."""
        flat = fields or []
        return cls(partition, stream_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))

    @property
    def announced(self) -> int:
        """The redemptions that the backlog counter has for it; 0 for what our script has not written."""
        text = self.fields.get(b"n", b"0")
        return int(text) if text.isdigit() and len(text) < 7 else 0

    @property
    def epoch(self) -> int:
        text = self.fields.get(b"e", b"0")
        return int(text) if text.isdigit() and len(text) < 19 else 0

    @property
    def raw(self) -> list[bytes]:
        return [part for pair in self.fields.items() for part in pair]


_BURY: Final = """
INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"""


async def record_entries(connection: AnyConnection, entries: Sequence[Entry]) -> Recorded:
    """Brings entries into the ledger within the caller's transaction; to repeat it changes nothing.

    What cannot be read or recorded goes into the dead letters. Raises only what says that Postgres is away or busy.
    """
    redemptions = RedemptionColumns()
    sources: list[Entry] = []
    letters: list[tuple[Any, ...]] = []
    for entry in entries:
        try:
            event: Event = decode_event(entry.fields)
        except UndecodableEventError as error:
            letters.append((entry.partition, entry.stream_id, entry.epoch, None, None, str(error), entry.raw))
            continue
        for redemption in event.redemptions:
            redemptions.append(redemption)
            sources.append(entry)
    recorded = await record_redemptions(connection, redemptions)
    for rejected in recorded.rejected:
        entry = sources[rejected.index]
        place = rejected.index
        letters.append(
            (entry.partition, entry.stream_id, entry.epoch, redemptions.pool_ids[place], redemptions.seqs[place],
             rejected.reason, entry.raw)
        )  # fmt: skip
    if letters:
        await connection.executemany(_BURY, letters)
    return recorded

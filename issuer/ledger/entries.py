"""Stream entries on their way into the ledger: decoded, recorded, or kept as dead letters with the reason."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from issuer.contract.events import RedemptionColumns, UndecodableEventError, decode_columns
from issuer.ledger.dead_letters import DeadLetter, bury
from issuer.ledger.record import AnyConnection, RecordResult, record_redemptions


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry as the stream has it."""

    partition: int
    stream_id: str
    fields: Mapping[bytes, bytes]

    @classmethod
    def of_reply(cls, partition: int, stream_id: bytes, fields: Sequence[bytes] | None) -> StreamEntry:
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

    def dead_letter(self, reason: str, pool_id: int | None = None, seq: int | None = None) -> DeadLetter:
        """The letter for one of its redemptions, or for all of it when it cannot be read."""
        return DeadLetter(self.partition, self.stream_id, self.epoch, pool_id, seq, reason, self.raw)


async def record_entries(connection: AnyConnection, entries: Sequence[StreamEntry]) -> RecordResult:
    """Brings entries into the ledger within the caller's transaction; to repeat it changes nothing.

    What cannot be read or recorded goes into the dead letters. Raises only what says that Postgres is away or busy.
    """
    redemptions = RedemptionColumns()
    sources: list[StreamEntry] = []
    ends: list[int] = []
    letters: list[DeadLetter] = []
    for entry in entries:
        try:
            decode_columns(entry.fields, redemptions)
        except UndecodableEventError as error:
            letters.append(entry.dead_letter(str(error)))
        else:
            sources.append(entry)
            ends.append(len(redemptions))
    recorded = await record_redemptions(connection, redemptions)
    for rejected in recorded.rejected:
        place = rejected.index
        entry = sources[bisect_right(ends, place)]
        letters.append(entry.dead_letter(rejected.reason, redemptions.pool_ids[place], redemptions.seqs[place]))
    if letters:
        await bury(connection, letters)
        recorded.dead_letters = len(letters)
    return recorded

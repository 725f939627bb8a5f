"""Stream entries: decoded and recorded in the ledger, or stored as dead letters with the reason."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from issuer.contract.events import Redemption, RedemptionColumns, UndecodableEventError, decode_columns, is_newer
from issuer.ledger.dead_letters import DeadLetter, store_dead_letters
from issuer.ledger.record import RecordResult, record_redemptions
from issuer.storage.postgres import AnyConnection


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry of a partition's stream."""

    partition: int
    stream_id: str
    fields: Mapping[bytes, bytes]

    @classmethod
    def of_reply(cls, partition: int, stream_id: bytes, fields: Sequence[bytes] | None) -> StreamEntry:
        """Build an entry from a raw reply: field names and values alternating; None for an entry that was deleted."""
        flat = fields or []
        return cls(partition, stream_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))

    @property
    def announced(self) -> int:
        """The facts that the backlog counts for this entry; 0 if the script did not write it."""
        return self._number(b"n", 6)

    @property
    def is_newer(self) -> bool:
        """Whether a later version of this program wrote it. It must neither be recorded nor removed by this one."""
        return is_newer(self.fields)

    @property
    def epoch(self) -> int:
        return self._number(b"e", 18)

    @property
    def serial(self) -> int:
        """The serial of the first fact; 0 if the script did not write it."""
        return self._number(b"s", 18)

    def _number(self, name: bytes, max_digits: int) -> int:
        text = self.fields.get(name, b"0")
        return int(text) if text.isdigit() and len(text) <= max_digits else 0

    @property
    def raw(self) -> list[bytes]:
        return [part for pair in self.fields.items() for part in pair]

    def unreadable(self, reason: str) -> DeadLetter:
        """Return the dead letter of the whole entry."""
        serial = self.serial or None
        return DeadLetter(
            self.partition, self.stream_id, self.epoch, None, None, reason, self.raw, serial, self.announced
        )

    def unrecorded(self, reason: str, redemption: Redemption) -> DeadLetter:
        """Return the dead letter of one redemption."""
        pool_id, seq, serial = redemption.pool_id, redemption.seq, redemption.serial
        return DeadLetter(self.partition, self.stream_id, self.epoch, pool_id, seq, reason, self.raw, serial)


async def record_entries(connection: AnyConnection, entries: Sequence[StreamEntry]) -> RecordResult:
    """Record entries in the ledger within the caller's transaction. A repetition changes nothing.

    Entries and redemptions that cannot be read or recorded become dead letters. Raises only errors that say that
    Postgres is unavailable or busy.
    """
    redemptions = RedemptionColumns()
    sources: list[StreamEntry] = []
    ends: list[int] = []
    letters: list[DeadLetter] = []
    for entry in entries:
        try:
            decode_columns(entry.fields, redemptions)
        except UndecodableEventError as error:
            letters.append(entry.unreadable(str(error)))
        else:
            sources.append(entry)
            ends.append(len(redemptions))
    recorded = await record_redemptions(connection, redemptions)
    for rejected in recorded.rejected:
        place = rejected.index
        entry = sources[bisect_right(ends, place)]
        (redemption,) = redemptions.slice(place, place + 1).redemptions()
        letters.append(entry.unrecorded(rejected.reason, redemption))
    if letters:
        await store_dead_letters(connection, letters)
        recorded.dead_letters = len(letters)
    return recorded

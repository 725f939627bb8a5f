"""Floors: the highest serial and beat of each partition that this process saw in an epoch.

A Redis whose data are below a floor has gone back in time, whatever its `run_id` and epoch say: the scripts refuse such
data (BEHIND), and a recovery takes them for a loss.
"""

from __future__ import annotations

from typing import Final

import orjson

from issuer.storage.postgres import Connection, Pool


class Floors:
    """The floors of one epoch, by partition. Lists, not dictionaries: every script call reads two of them."""

    def __init__(self, epoch: int, partitions: int) -> None:
        self.epoch = epoch
        self.serials = [0] * partitions
        self.beats = [0] * partitions

    def see(self, partition: int, serial: int, beat: int = 0) -> None:
        """Raise the floors of a partition to what was seen of it in this epoch."""
        if serial > self.serials[partition]:
            self.serials[partition] = serial
        if beat > self.beats[partition]:
            self.beats[partition] = beat

    def see_all(self, floors: Floors) -> None:
        """Raise all floors to those of another."""
        for partition, (serial, beat) in enumerate(zip(floors.serials, floors.beats, strict=True)):
            self.see(partition, serial, beat)

    def to_json(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return serials and beats by partition, without zeros."""
        serials, beats = ({str(p): n for p, n in enumerate(seen) if n} for seen in (self.serials, self.beats))
        return serials, beats


_REPORTS: Final = "SELECT serials, beats FROM registrations WHERE epoch = $1"


async def read_floors(postgres: Pool | Connection, epoch: int, partitions: int) -> Floors:
    """Return the floors of an epoch that its processes have reported to Postgres."""
    floors = Floors(epoch, partitions)
    for row in await postgres.fetch(_REPORTS, epoch):
        serials, beats = orjson.loads(row["serials"]), orjson.loads(row["beats"])
        for partition in range(partitions):
            floors.see(partition, serials.get(str(partition), 0), beats.get(str(partition), 0))
    return floors

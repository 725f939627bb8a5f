"""What a recovery finds in Postgres and Redis before it changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import orjson

from issuer.contract.events import EVENT_FORMAT
from issuer.recovery.decision import RecoveryDecision
from issuer.recovery.inspection import BatchStates, PartitionState, PoolState, ServerIdentity
from issuer.storage.lineage import IncidentError
from issuer.storage.postgres import Connection

HEARTBEAT_TTL: Final = timedelta(seconds=4)
"""How long the last heartbeat of the blessed server keeps a server at another address from being blessed."""


@dataclass(frozen=True, slots=True)
class InstallationState:
    """The row `installation`. `decision` is that of a recovery that was stopped; None when there is none."""

    id: UUID
    partitions: int
    max_backlog: int
    epoch: int
    run_id: str | None
    decision: RecoveryDecision | None
    incident: str | None
    lost_epoch: int
    timeline: str | None


@dataclass(frozen=True, slots=True)
class BlessedServer:
    """The server that was blessed last, and whether its heartbeat is fresh."""

    epoch: int
    identity: ServerIdentity
    is_alive: bool


@dataclass(slots=True)
class Survey:
    """What Postgres and Redis hold. `before` None: no server was ever blessed.

    `states` and `pools` are read again once no process receives answers any more.
    """

    installation: InstallationState
    states: Sequence[PartitionState]
    server: ServerIdentity
    before: BlessedServer | None
    pools: list[PoolState]
    batches: BatchStates

    @property
    def last_epoch(self) -> int:
        return self.before.epoch if self.before else 0

    @property
    def lost(self) -> tuple[int, int]:
        """After which epoch and up to which one something may be missing from these data."""
        return self.installation.lost_epoch, self.last_epoch


_INSTALLATION: Final = "SELECT * FROM installation"

_LAST_BLESSED: Final = """
SELECT epoch, server, seen_at > now() - $1::interval AS is_alive FROM incarnations ORDER BY epoch DESC LIMIT 1"""


async def read_installation(postgres: Connection) -> InstallationState:
    """Return the installation. Raises IncidentError when its data are newer than this version."""
    row = await postgres.fetchrow(_INSTALLATION)
    assert row is not None
    if row["event_format"] > EVENT_FORMAT:
        raise IncidentError(
            f"the data have event format {row['event_format']}, this version knows {EVENT_FORMAT}:"
            " run the newer version"
        )
    decision = RecoveryDecision.from_json(row["recovering"]) if row["recovering"] is not None else None
    return InstallationState(
        row["id"], row["partitions"], row["max_backlog"], row["epoch"], row["run_id"], decision, row["incident"],
        row["lost_epoch"], row["timeline"],
    )  # fmt: skip


async def read_last_blessed(postgres: Connection) -> BlessedServer | None:
    row = await postgres.fetchrow(_LAST_BLESSED, HEARTBEAT_TTL)
    if row is None:
        return None
    return BlessedServer(row["epoch"], ServerIdentity(**orjson.loads(row["server"])), row["is_alive"])

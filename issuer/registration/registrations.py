"""Registrations: which processes may have received answers of which epoch, and of which everything is known.

A process registers before its first call of an epoch, in a transaction that no fence overtakes. Its registration is
settled once everything that it answered is in the ledger. What is not settled when an epoch is lost may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import orjson

from issuer.journal.journal import boot_id, host_name, process_name
from issuer.storage.lineage import TokenKind, new_token, refuse_incident, refuse_unknown
from issuer.storage.postgres import AnyConnection, Pool

EVERY_EPOCH: Final = 2**62
SILENT_FOR_S: Final = 2.5
"""A process that has not reported for this long has ended, or is cut off. Its registration stays open."""


@dataclass(frozen=True, slots=True)
class RegisteredProcess:
    """A process as Postgres knows it. `journal_id`: of its journal; of nothing if it `has_journal` not."""

    journal_id: UUID = field(default_factory=uuid4)
    has_journal: bool = False
    process: str = field(default_factory=process_name)
    host: str = field(default_factory=host_name)
    boot_id: str = field(default_factory=boot_id)


_EPOCH: Final = "SELECT epoch FROM installation"
_REGISTER: Final = """
INSERT INTO registrations (journal_id, epoch, process, host, boot_id, has_journal)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (journal_id, epoch) DO NOTHING"""
_REPORT: Final = """
UPDATE registrations SET seen_at = clock_timestamp(), serials = $3, beats = $4
WHERE journal_id = $1 AND epoch = $2 AND settled IS NULL"""
_SETTLE: Final = """
UPDATE registrations SET settled = $3, settled_at = clock_timestamp(), left_at = coalesce(left_at, clock_timestamp())
WHERE journal_id = $1 AND epoch <= $2 AND settled IS NULL"""


async def register(
    connection: AnyConnection, process: RegisteredProcess, epoch: int, tokens: Sequence[UUID] = ()
) -> UUID | None:
    """Register a process for an epoch. Return the token of the commit; None: it is not the present one.

    No server need be blessed in it yet: the process calls scripts once one is. A fence waits for this transaction, and
    begins another epoch: the recovery behind it knows of every process that may call in this one.
    Raises IncidentError, also when Postgres does not know `tokens`. Nothing was stored then.
    """
    await refuse_unknown(connection, tokens, f"a process on {process.host}")
    async with connection.transaction():
        await refuse_incident(connection)
        if await connection.fetchval(_EPOCH) != epoch:
            return None
        await connection.execute(
            _REGISTER, process.journal_id, epoch, process.process, process.host, process.boot_id,
            process.has_journal,
        )  # fmt: skip
        return await new_token(connection, TokenKind.REGISTRATION)


_REGISTER_RECOVERY: Final = """
INSERT INTO registrations (journal_id, epoch, process, host, boot_id, has_journal, serials, beats, left_at,
  settled, settled_at)
VALUES (gen_random_uuid(), $1, 'recovery', $2, '', false, $3, $4, clock_timestamp(), '{}', clock_timestamp())"""


async def register_recovery(
    connection: AnyConnection, epoch: int, serials: Mapping[str, int], beats: Mapping[str, int]
) -> None:
    """Store the serials and beats with which a recovery lets an epoch begin, in its transaction."""
    seen = (orjson.dumps(numbers).decode() for numbers in (serials, beats))
    await connection.execute(_REGISTER_RECOVERY, epoch, host_name(), *seen)


async def report(
    postgres: Pool, process: RegisteredProcess, epoch: int, serials: Mapping[str, int], beats: Mapping[str, int]
) -> None:
    """Store the heartbeat of a process with the highest serials and beats, by partition, that it saw in the epoch."""
    seen = (orjson.dumps(numbers).decode() for numbers in (serials, beats))
    await postgres.execute(_REPORT, process.journal_id, epoch, *seen)


_REPORT_ALIVE: Final = """
UPDATE registrations SET seen_at = clock_timestamp() WHERE journal_id = $1 AND epoch = $2 AND settled IS NULL"""


async def report_alive(postgres: Pool, process: RegisteredProcess, epoch: int) -> None:
    """Store the heartbeat of a process that has left the epoch and is about to settle."""
    await postgres.execute(_REPORT_ALIVE, process.journal_id, epoch)


_LEAVE: Final = """
UPDATE registrations SET left_at = clock_timestamp(), serials = $3
WHERE journal_id = $1 AND epoch = $2 AND settled IS NULL"""


async def leave(postgres: Pool, process: RegisteredProcess, epoch: int, serials: Mapping[str, int]) -> None:
    """Note that a process without a journal has closed its connections: no recovery waits for more of it."""
    await postgres.execute(_LEAVE, process.journal_id, epoch, orjson.dumps(serials).decode())


async def settle(connection: AnyConnection, journal_id: UUID, epoch: int, serials: Mapping[str, int]) -> UUID:
    """Settle the registrations with this journal up to `epoch`. Return the token of the commit.

    Everything that was answered under them is in the ledger, where this connection has put or found it, and `serials`
    are the highest of it by partition. Raises IncidentError.
    """
    async with connection.transaction():
        await refuse_incident(connection)
        await connection.execute(_SETTLE, journal_id, epoch, orjson.dumps(serials).decode())
        return await new_token(connection, TokenKind.SETTLING)


_OPEN: Final = """
SELECT epoch, process, host, has_journal,
  left_at IS NULL AND seen_at > clock_timestamp() - $3::float8 * interval '1 s' AS is_alive
FROM registrations WHERE epoch > $1 AND epoch <= $2 AND settled IS NULL ORDER BY epoch, host, process"""


@dataclass(frozen=True, slots=True)
class OpenRegistration:
    """A registration that is not settled. `is_alive`: its process may receive more, and has reported a
    moment ago."""

    epoch: int
    process: str
    host: str
    has_journal: bool
    is_alive: bool

    def __str__(self) -> str:
        if self.has_journal:
            return f"the journal of {self.process} on host {self.host} (epoch {self.epoch})"
        return f"{self.process} on host {self.host}, which had no journal (epoch {self.epoch})"


async def find_open(postgres: AnyConnection | Pool, after: int, up_to: int) -> list[OpenRegistration]:
    """Return the registrations of the epochs after `after` up to `up_to` that are not settled."""
    rows: list[Any] = await postgres.fetch(_OPEN, after, up_to, SILENT_FOR_S)
    return [OpenRegistration(**row) for row in rows]


_FORGET: Final = """
DELETE FROM registrations WHERE settled IS NOT NULL AND settled_at < now() - interval '1 hour'
  AND epoch < (SELECT max(epoch) FROM incarnations)
  AND NOT EXISTS (SELECT FROM quarantined q WHERE q.released_at IS NULL)"""


async def forget_settled(postgres: Pool) -> None:
    """Delete settled registrations of epochs that were replaced, unless a quarantine may depend on them."""
    await postgres.execute(_FORGET)

"""Lineage: how a Postgres is detected that went back in time, such as a standby that lagged, or a restored backup.

Each commit that recovery relies on writes a random token. What relies on it keeps the token: the state of the
partitions in Redis, each process, each journal directory. A Postgres that does not know such a token has lost the
commit. A number would not do: a Postgres that went back catches up, and has other commits under the same numbers.

That is an incident. It is stored in `installation.incident`, and only a person can end it: nothing is recorded,
acknowledged, registered, recovered or changed in Redis until then. Codes are issued until the backlog is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

import structlog

from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError, count_of

log = structlog.get_logger()


class IncidentError(Exception):
    """A state that only an operator can resolve. Nothing was changed. The message says what to do."""


class TokenKind(StrEnum):
    """The commit that wrote a token.

    RECORD: of events in the ledger. CONNECTION: of a process that begins to use Redis. REGISTRATION: of a process for
    an epoch. SETTLING: of registrations, or of what was quarantined for them. RECEIPTS: the ledger was found to have
    the receipts that a journal deletes. REVISION: of a batch, replaced by a later one. UNKNOWN: no commit of
    this Postgres; ACCEPTED: the same, after an operator has decided to go on without that commit.
    """

    RECORD = "record"
    CONNECTION = "connection"
    REGISTRATION = "registration"
    SETTLING = "settling"
    RECEIPTS = "receipts"
    FENCE = "fence"
    DECISION = "decision"
    BLESSING = "blessing"
    REVISION = "revision"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"


UNKNOWN_AMONG: Final = """ARRAY(SELECT t FROM unnest({tokens}::uuid[]) AS t
  WHERE NOT EXISTS (SELECT FROM lineage l WHERE l.token = t AND l.kind <> 'unknown'))"""
"""SQL for those tokens of an array that this Postgres does not know."""

_NEW: Final = "INSERT INTO lineage (kind) VALUES ($1) RETURNING token"
_UNKNOWN: Final = f"SELECT {UNKNOWN_AMONG.format(tokens='$1')}"

_REPORT: Final = """
INSERT INTO lineage (token, kind) SELECT t, 'unknown' FROM unnest($1::uuid[]) AS t ON CONFLICT DO NOTHING"""
_BEGIN_INCIDENT: Final = "UPDATE installation SET incident = $1 WHERE incident IS NULL"
_INCIDENT: Final = "SELECT incident FROM installation"
_LOCK_INSTALLATION: Final = "SELECT FROM installation FOR UPDATE"
_ACCEPT: Final = """
WITH reported AS (UPDATE lineage SET kind = 'accepted' WHERE kind = 'unknown')
INSERT INTO lineage (token, kind) SELECT DISTINCT t, 'accepted' FROM unnest($1::uuid[]) AS t ON CONFLICT DO NOTHING"""

_LOST_COMMIT: Final = (
    "Postgres went back in time: it lacks a commit that {holder} knows of. It was restored, copied, or replaced by a"
    " standby that lagged. Nothing is recorded, recovered or changed until you decide. Connect the Postgres that has"
    " the commit, or run `issuer recover --restored` to go on with this one"
)

_EXPIRE: Final = """
DELETE FROM lineage WHERE token IN (
  SELECT token FROM lineage
  WHERE created_at < (SELECT max(created_at) FROM lineage) - interval '7 days'
    AND (kind = 'record' OR created_at < (SELECT max(created_at) FROM lineage) - interval '90 days')
  ORDER BY created_at LIMIT $1)"""


@dataclass(slots=True)
class Lineage:
    """The tokens that one process has met: `last`, of its own last commit, and `seen`, which are to be looked up."""

    last: UUID | None = None
    seen: set[UUID] = field(default_factory=set)

    @property
    def tokens(self) -> list[UUID]:
        """All tokens that Postgres must know."""
        return [*self.seen, *([] if self.last is None else [self.last])]

    def see(self, texts: Iterable[str | bytes]) -> None:
        """Note tokens as Redis has them; empty: there is none."""
        self.seen |= read_tokens(texts)

    def confirm(self, tokens: Iterable[UUID]) -> None:
        """Forget seen tokens that Postgres knows, or that were reported."""
        self.seen.difference_update(tokens)


def read_tokens(texts: Iterable[str | bytes]) -> set[UUID]:
    """Return the tokens of these texts, as Redis has them; empty: there is none."""
    return {UUID(hex=text.decode() if isinstance(text, bytes) else text) for text in texts if text}


async def new_token(connection: AnyConnection, kind: TokenKind) -> UUID:
    """Return the token of the transaction that runs on the connection. It counts once that has committed."""
    token = await connection.fetchval(_NEW, kind)
    return UUID(bytes=token.bytes)


async def find_unknown(connection: AnyConnection, tokens: Sequence[UUID]) -> list[UUID]:
    """Return those tokens that this Postgres does not know."""
    return list(await connection.fetchval(_UNKNOWN, tokens)) if tokens else []


async def report_unknown(connection: AnyConnection, tokens: Sequence[UUID], holder: str) -> str:
    """Begin an incident, outside of any transaction: Postgres does not know these tokens. Return its text.

    `holder`: what has the tokens, in words for an operator. An operator may have accepted them since they were looked
    for: then there is none, and the next look finds them known.
    """
    await connection.execute(_REPORT, tokens)
    text = _LOST_COMMIT.format(holder=holder)
    async with connection.transaction():
        if stored := await connection.fetchval(_INCIDENT):
            return str(stored)
        # An operator's command that accepts tokens holds this lock until the commit, which only a later statement sees.
        await connection.execute(_LOCK_INSTALLATION)
        return await begin_incident(connection, text) if await find_unknown(connection, tokens) else text


async def refuse_unknown(connection: AnyConnection, tokens: Sequence[UUID], holder: str) -> None:
    """Begin an incident and raise IncidentError if this Postgres does not know these tokens.

    Outside of any transaction. What the same connection commits next is the work of a Postgres that knows them.
    """
    if unknown := await find_unknown(connection, tokens):
        raise IncidentError(await report_unknown(connection, unknown, holder))


async def begin_incident(connection: AnyConnection | Pool, text: str) -> str:
    """Store an incident, unless there is one. Return the text of the one that is stored."""
    if count_of(await connection.execute(_BEGIN_INCIDENT, text)):
        log.error("incident: an operator must decide", incident=text)
    return await connection.fetchval(_INCIDENT) or text


async def refuse_incident(connection: AnyConnection) -> None:
    """Raise IncidentError if there is one. In a transaction none begins before its end."""
    incident = await connection.fetchval("SELECT incident FROM installation FOR SHARE")
    if incident:
        raise IncidentError(incident)


class FencedOffError(PostgresUnavailableError):
    """A recovery has fenced since this work began. As after every failure of Postgres, it may be tried again."""


async def refuse_fenced_off(connection: AnyConnection, epoch: int) -> None:
    """Raise FencedOffError if `epoch` is not that of Postgres any more. A fence waits for the caller's transaction.

    A process that was frozen, and continues behind the fence of another one, is stopped here.
    """
    current = await connection.fetchval("SELECT epoch FROM installation FOR SHARE")
    if current != epoch:
        raise FencedOffError(f"the recovery of epoch {current} has begun since epoch {epoch}")


async def accept_unknown(connection: AnyConnection, tokens: Sequence[UUID]) -> None:
    """Accept these tokens and every one that was reported: an operator has decided to go on without their commits."""
    await connection.execute(_ACCEPT, tokens)


async def remove_expired_tokens(postgres: Pool, limit: int) -> int:
    """Remove old tokens, at most `limit`; return how many.

    Those of the worker's transactions, of which there are many, are kept for 7 days, the others for 90, both before the
    newest token. Until then every holder has met a later one: each process writes one to Redis twice a day.
    """
    return count_of(await postgres.execute(_EXPIRE, limit))

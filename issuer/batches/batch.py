"""A batch as Postgres has it, what may be changed of it, and what cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from issuer.batches.rules import Rules, parse_rules
from issuer.instants import InvalidInstantError, in_utc, show_instant
from issuer.names import name_problem


class BatchNotFoundError(LookupError):
    """There is no such batch, or none that the caller may know of."""


class BatchEndedError(Exception):
    """The batch was ended, and that is final."""


class BatchSharedError(Exception):
    """Other clients have codes in the batch: one of them alone cannot change it."""


class InvalidBatchError(ValueError):
    """Not a batch as it could be; the message says why."""


class Unset(Enum):
    """Leaves a value as it is, where None means to take it away."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as Postgres has it. Times are in UTC. Redis has seen all changes up to `redis_revision`."""

    id: UUID
    name: str
    rules: Rules
    starts_at: datetime | None
    ends_at: datetime | None
    paused: bool
    ended_at: datetime | None
    created_at: datetime
    revision: int
    redis_revision: int
    freed_at: datetime | None

    @property
    def expired(self) -> bool:
        """Whether it hands out nothing any more: ended, or past `ends_at`."""
        return self.ended_at is not None or (self.ends_at is not None and self.ends_at <= datetime.now(UTC))

    @property
    def in_redis(self) -> bool:
        return self.redis_revision >= self.revision

    def to_json(self) -> dict[str, Any]:
        """The batch as API and command line show it."""
        return {
            "id": str(self.id),
            "name": self.name,
            "rules": self.rules.to_json(),
            "starts_at": shown(self.starts_at),
            "ends_at": shown(self.ends_at),
            "paused": self.paused,
            "expired": self.expired,
            "ended_at": shown(self.ended_at),
            "created_at": shown(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class BatchChanges:
    """What to change of a batch; the default of each field changes nothing. `expired=True` ends it for good."""

    name: str | None = None
    rules: Rules | None = None
    starts_at: datetime | Unset | None = UNSET
    ends_at: datetime | Unset | None = UNSET
    paused: bool | None = None
    expired: bool | None = None


def changed_values(batch: Batch, changes: BatchChanges) -> dict[str, Any]:
    """The columns that the changes make different, checked as a whole."""
    if changes.expired is False and batch.expired:
        raise (
            InvalidBatchError("expired: to open it again, change ends_at")
            if batch.ended_at is None
            else BatchEndedError("the batch was ended; that is final")
        )
    name, starts_at, ends_at = checked_values(
        batch.name if changes.name is None else changes.name,
        batch.starts_at if isinstance(changes.starts_at, Unset) else changes.starts_at,
        batch.ends_at if isinstance(changes.ends_at, Unset) else changes.ends_at,
    )
    wanted: dict[str, Any] = {"name": name, "starts_at": starts_at, "ends_at": ends_at}
    if changes.rules is not None:
        wanted["rules"] = changes.rules
    if changes.paused is not None:
        wanted["paused"] = changes.paused
    changed = {column: value for column, value in wanted.items() if value != getattr(batch, column)}
    if changes.expired and batch.ended_at is None:
        changed["ended_at"] = datetime.now(UTC)
    return changed


def checked_values(
    name: str, starts_at: datetime | None, ends_at: datetime | None
) -> tuple[str, datetime | None, datetime | None]:
    problem = name_problem(name)
    if problem:
        raise InvalidBatchError(problem)
    times: list[datetime | None] = []
    for field, value in (("starts_at", starts_at), ("ends_at", ends_at)):
        try:
            times.append(None if value is None else in_utc(value))
        except InvalidInstantError as error:
            raise InvalidBatchError(f"{field}: {error}") from error
    if times[0] is not None and times[1] is not None and times[1] <= times[0]:
        raise InvalidBatchError("ends_at must be later than starts_at")
    return name, times[0], times[1]


def rules_text(rules: Rules) -> str:
    return orjson.dumps(rules.to_json()).decode()


def shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return show_instant(value)
    return value.to_json() if isinstance(value, Rules) else value


def batch_from_row(row: asyncpg.Record) -> Batch:
    return Batch(
        id=UUID(bytes=row["id"].bytes),
        name=row["name"],
        rules=parse_rules(orjson.loads(row["rules"])),
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        paused=row["paused"],
        ended_at=row["ended_at"],
        created_at=row["created_at"],
        revision=row["revision"],
        redis_revision=row["redis_revision"],
        freed_at=row["freed_at"],
    )

"""A batch as stored in Postgres, and the checks of its changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from issuer.batches.rules import NO_RULES, Rules, parse_rules
from issuer.ids import parse_uuid
from issuer.instants import InvalidInstantError, in_utc, show_instant
from issuer.names import name_problem

if TYPE_CHECKING:
    import asyncpg

BATCHES: Final = "SELECT * FROM batches WHERE kind = 'codes'"
"""Selects batches. Coupons have a row in `batches` too, but are not listed as batches."""
OF_CLIENT: Final = "EXISTS (SELECT FROM pools WHERE pools.batch_id = batches.id AND pools.client_id = $1)"
NOT_CAMPAIGN: Final = "NOT EXISTS (SELECT FROM campaigns WHERE campaigns.batch_id = batches.id)"
"""Campaigns are listed separately: a caller that redeems from a batch cannot use them."""
OPEN: Final = "ended_at IS NULL AND (ends_at IS NULL OR ends_at > now())"


class BatchNotFoundError(LookupError):
    """The batch does not exist, or the caller may not see it."""


class BatchIdTakenError(Exception):
    """A batch, a coupon or a campaign has the id that was chosen for a new batch. Nothing more is said about it."""


class BatchEndedError(Exception):
    """The batch has ended, which is final."""


class BatchSharedError(Exception):
    """Other clients have codes in the batch, so a caller bound to one client cannot change it."""


class InvalidBatchError(ValueError):
    """A value of the batch is invalid; the message says why."""


class Unset(Enum):
    """The type of UNSET, which leaves a value as it is; None removes the value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as stored in Postgres. Times are in UTC. Redis has all changes up to `redis_revision`."""

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
        """Whether it no longer issues codes: it was ended, or `ends_at` has passed."""
        return self.ended_at is not None or (self.ends_at is not None and self.ends_at <= datetime.now(UTC))

    @property
    def in_redis(self) -> bool:
        return self.redis_revision >= self.revision

    def to_json(self) -> dict[str, Any]:
        """Return the batch as the API and the command line show it."""
        return {
            "id": str(self.id),
            "name": self.name,
            "rules": self.rules.to_json(),
            "starts_at": show_value(self.starts_at),
            "ends_at": show_value(self.ends_at),
            "paused": self.paused,
            "expired": self.expired,
            "ended_at": show_value(self.ended_at),
            "created_at": show_value(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class NewBatch:
    """The values of a batch that is created together with its first codes."""

    name: str
    rules: Rules = NO_RULES
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    id: UUID | None = None
    """Chosen by the caller; None: a random one."""


@dataclass(frozen=True, slots=True)
class BatchChanges:
    """Changes of a batch; a field with its default changes nothing. `expired=True` ends the batch, which is final."""

    name: str | None = None
    rules: Rules | None = None
    starts_at: datetime | Unset | None = UNSET
    ends_at: datetime | Unset | None = UNSET
    paused: bool | None = None
    expired: bool | None = None


def find_changed_values(batch: Batch, changes: BatchChanges) -> dict[str, Any]:
    """Return the columns that differ after the changes; the new batch is checked as a whole.

    Raises InvalidBatchError and BatchEndedError.
    """
    if changes.expired is False and batch.expired:
        raise (
            InvalidBatchError("expired: to open it again, change ends_at")
            if batch.ended_at is None
            else BatchEndedError("the batch was ended; that is final")
        )
    if changes.name is not None:
        check_name(changes.name)
    starts_at, ends_at = check_times(
        batch.starts_at if isinstance(changes.starts_at, Unset) else changes.starts_at,
        batch.ends_at if isinstance(changes.ends_at, Unset) else changes.ends_at,
    )
    name = batch.name if changes.name is None else changes.name
    values: dict[str, Any] = {"name": name, "starts_at": starts_at, "ends_at": ends_at}
    if changes.rules is not None:
        values["rules"] = changes.rules
    if changes.paused is not None:
        values["paused"] = changes.paused
    changed = {column: value for column, value in values.items() if value != getattr(batch, column)}
    if changes.expired and batch.ended_at is None:
        changed["ended_at"] = datetime.now(UTC)
    return changed


def check_values(
    name: str, starts_at: datetime | None, ends_at: datetime | None
) -> tuple[str, datetime | None, datetime | None]:
    """Return the values of a new batch with times in UTC and in whole ms. Raises InvalidBatchError."""
    check_name(name)
    return name, *check_times(starts_at, ends_at)


def check_name(name: str) -> None:
    """Raise InvalidBatchError unless this can be a name."""
    problem = name_problem(name)
    if problem is None and parse_uuid(name) is not None:
        problem = "name must not have the form of a UUID: it would be taken for an id"
    if problem:
        raise InvalidBatchError(problem)


def check_times(starts_at: datetime | None, ends_at: datetime | None) -> tuple[datetime | None, datetime | None]:
    """Return the times in UTC and in whole ms. Raises InvalidBatchError."""
    times: list[datetime | None] = []
    for field, value in (("starts_at", starts_at), ("ends_at", ends_at)):
        try:
            times.append(None if value is None else in_utc(value))
        except InvalidInstantError as error:
            raise InvalidBatchError(f"{field}: {error}") from error
    if times[0] is not None and times[1] is not None and times[1] <= times[0]:
        raise InvalidBatchError("ends_at must be later than starts_at")
    return times[0], times[1]


def show_value(value: Any) -> Any:
    """Return a column's value as JSON and the audit log show it."""
    if isinstance(value, datetime):
        return show_instant(value)
    return value.to_json() if isinstance(value, Rules) else value


def change_detail(batch: Batch, changed: dict[str, Any]) -> dict[str, Any]:
    """Return the audit log's detail of a change: the value of each column before and after it."""
    detail = {}
    for column, value in changed.items():
        detail[column] = {"from": show_value(getattr(batch, column)), "to": show_value(value)}
    return detail


def batch_from_row(row: asyncpg.Record) -> Batch:
    """Return the batch of a row of the table `batches`."""
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

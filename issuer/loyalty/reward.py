"""A reward as stored in Postgres, and the checks of its values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from issuer.batches.batch import UNSET, Unset
from issuer.instants import InvalidInstantError, in_utc, show_instant
from issuer.loyalty.amounts import show_points
from issuer.names import name_problem

if TYPE_CHECKING:
    import asyncpg

MAX_COST: Final = 10**12


class RewardNotFoundError(LookupError):
    """The reward does not exist, or is of another program."""


class InvalidRewardError(ValueError):
    """A value of the reward is invalid; the message says why."""


class RewardUnavailableError(Exception):
    """The reward has not started or has ended."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a member takes for `cost` points: one code of the batch. Times are in UTC; `ends_at` is exclusive."""

    id: UUID
    program_id: UUID
    name: str
    cost: int
    batch_id: UUID
    starts_at: datetime | None
    ends_at: datetime | None
    created_at: datetime

    def check_available(self, now: datetime) -> None:
        """Raise RewardUnavailableError unless it can be taken at `now`."""
        if self.starts_at is not None and now < self.starts_at:
            raise RewardUnavailableError("the reward has not started")
        if self.ends_at is not None and now >= self.ends_at:
            raise RewardUnavailableError("the reward has ended")

    @property
    def is_available(self) -> bool:
        """Whether it can be taken now, as far as its times say. Its batch may still refuse."""
        try:
            self.check_available(datetime.now(UTC))
        except RewardUnavailableError:
            return False
        return True

    def to_json(self, unit: str) -> dict[str, Any]:
        """Return the reward as the API and the command line show it. `unit`: of the program."""
        return {
            "id": str(self.id),
            "program_id": str(self.program_id),
            "name": self.name,
            "cost": show_points(self.cost, unit),
            "batch_id": str(self.batch_id),
            "starts_at": None if self.starts_at is None else show_instant(self.starts_at),
            "ends_at": None if self.ends_at is None else show_instant(self.ends_at),
            "available": self.is_available,
            "created_at": show_instant(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class NewReward:
    """The values of a new reward. Raises InvalidRewardError."""

    name: str
    cost: int
    batch_id: UUID
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        starts_at, ends_at = check_reward(self.name, self.cost, self.starts_at, self.ends_at)
        object.__setattr__(self, "starts_at", starts_at)
        object.__setattr__(self, "ends_at", ends_at)


@dataclass(frozen=True, slots=True)
class RewardChanges:
    """Changes of a reward; a field with its default changes nothing. A purchase that was begun keeps cost and batch."""

    name: str | None = None
    cost: int | None = None
    batch_id: UUID | None = None
    starts_at: datetime | Unset | None = UNSET
    ends_at: datetime | Unset | None = UNSET

    def values(self, reward: Reward) -> dict[str, Any]:
        """Return the columns that differ after the changes. Raises InvalidRewardError."""
        name = reward.name if self.name is None else self.name
        cost = reward.cost if self.cost is None else self.cost
        starts_at, ends_at = check_reward(
            name,
            cost,
            reward.starts_at if isinstance(self.starts_at, Unset) else self.starts_at,
            reward.ends_at if isinstance(self.ends_at, Unset) else self.ends_at,
        )
        values = {"name": name, "cost": cost, "starts_at": starts_at, "ends_at": ends_at}
        values["batch_id"] = reward.batch_id if self.batch_id is None else self.batch_id
        return {column: value for column, value in values.items() if value != getattr(reward, column)}


def check_reward(
    name: str, cost: int, starts_at: datetime | None, ends_at: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """Return the times in UTC and in whole ms. Raises InvalidRewardError."""
    problem = name_problem(name)
    if problem is not None:
        raise InvalidRewardError(problem)
    if not 1 <= cost <= MAX_COST:
        raise InvalidRewardError(f"cost must be a whole number from 1 to {MAX_COST}")
    times: list[datetime | None] = []
    for field, value in (("starts_at", starts_at), ("ends_at", ends_at)):
        try:
            times.append(None if value is None else in_utc(value))
        except InvalidInstantError as error:
            raise InvalidRewardError(f"{field}: {error}") from error
    if times[0] is not None and times[1] is not None and times[1] <= times[0]:
        raise InvalidRewardError("ends_at must be later than starts_at")
    return times[0], times[1]


def reward_from_row(row: asyncpg.Record) -> Reward:
    """Return the reward of a row of the table `rewards`."""
    ids = {column: UUID(bytes=row[column].bytes) for column in ("id", "program_id", "batch_id")}
    return Reward(**(dict(row) | ids))

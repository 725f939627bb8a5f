"""Loyalty programs: each belongs to a client and has terms, of which every version is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from issuer.ids import parse_uuid
from issuer.instants import show_instant
from issuer.loyalty.terms import POINTS, Terms
from issuer.money import MoneyError, parse_currency
from issuer.names import name_problem

MAX_NAME: Final = 200


class ProgramState(StrEnum):
    """A paused or ended program grants and takes no points for members; refunds, undos and expiry continue."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Program:
    """A loyalty program with its latest terms. `unit`: `points`, or a currency whose minor units it counts."""

    id: UUID
    client_id: UUID
    name: str
    unit: str
    timezone: str
    state: ProgramState
    terms_number: int
    terms: Terms
    created_at: datetime

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def is_active(self) -> bool:
        return self.state is ProgramState.ACTIVE

    def to_json(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "client_id": str(self.client_id),
            "name": self.name,
            "unit": self.unit,
            "timezone": self.timezone,
            "state": str(self.state),
            "terms_number": self.terms_number,
            "terms": self.terms.to_json(),
            "created_at": show_instant(self.created_at),
        }


class InvalidProgramError(ValueError):
    """A field of a program is not valid. The message says why."""


class ProgramExistsError(Exception):
    """The client has a program of this name that has not ended."""

    def __init__(self) -> None:
        super().__init__("the client has a program with this name")


class ProgramNotFoundError(Exception):
    """There is no such program, or the caller may not see it."""

    def __init__(self) -> None:
        super().__init__("no program found")


class ProgramPausedError(Exception):
    """The program is paused or ended, so it grants and takes no points."""

    def __init__(self, program: Program) -> None:
        super().__init__(f"the program is {program.state}")


class ProgramEndedError(Exception):
    """The program has ended, and that is final."""

    def __init__(self) -> None:
        super().__init__("the program has ended, and that is final")


def parse_unit(value: str) -> str:
    """Return `points` or the three letters of a currency. Raises InvalidProgramError."""
    if value == POINTS:
        return value
    try:
        return parse_currency(value)
    except MoneyError as error:
        raise InvalidProgramError("unit must be points or a currency as ISO 4217 has it, such as EUR") from error


def parse_timezone(value: str) -> str:
    """Return a name of the IANA time zone database, such as Europe/London. Raises InvalidProgramError."""
    if value not in available_timezones():
        raise InvalidProgramError("timezone must be a name of the IANA database, such as Europe/London")
    return value


def parse_name(value: str) -> str:
    """Return the name of a program without outer spaces. Raises InvalidProgramError."""
    name = value.strip()
    problem = name_problem(name)
    if problem is not None:
        raise InvalidProgramError(problem)
    if len(name) > MAX_NAME:
        raise InvalidProgramError(f"name must have at most {MAX_NAME} characters")
    if parse_uuid(name) is not None:
        raise InvalidProgramError("name must not have the form of a UUID: it would be taken for an id")
    return name

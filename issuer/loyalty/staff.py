"""Staff: who works at the tills of a program. A till is signed in with an API key, a member of staff with a PIN.

A PIN is asked for at most MAX_TRIES times; then it is refused for LOCKED_FOR, the right one too. A try is counted
before it is compared, so tries at the same time are counted as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.instants import show_instant
from issuer.loyalty.pins import hash_pin, is_pin, new_pin
from issuer.names import name_problem
from issuer.storage.postgres import Pool, unavailable_translated

MAX_TRIES: Final = 5
LOCKED_FOR: Final = timedelta(minutes=15)
MAX_POINTS: Final = 10**12


class StaffNotFoundError(LookupError):
    """The program has no such member of staff, or has disabled it."""

    def __init__(self) -> None:
        super().__init__("no such member of staff")


class StaffExistsError(Exception):
    """Another member of staff of the program has this name."""

    def __init__(self) -> None:
        super().__init__("another member of staff has this name")


class InvalidStaffError(ValueError):
    """A value is invalid; the message says why."""


class WrongPinError(Exception):
    """The PIN is not that of the member of staff."""


class PinLockedError(Exception):
    """Too many wrong PINs. `until`: when the next one is accepted."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"too many wrong PINs; the next one is accepted at {show_instant(until)}")
        self.until = until


@dataclass(frozen=True, slots=True)
class Staff:
    """A member of staff. `max_points`: the largest entry it may make; None: only the program's terms limit it."""

    id: UUID
    program_id: UUID
    name: str
    max_points: int | None
    locked_until: datetime | None
    created_at: datetime
    disabled_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return the member of staff as the command line prints it."""
        return {
            "id": str(self.id),
            "program_id": str(self.program_id),
            "name": self.name,
            "max_points": self.max_points,
            "locked_until": None if self.locked_until is None else show_instant(self.locked_until),
            "created_at": show_instant(self.created_at),
            "disabled_at": None if self.disabled_at is None else show_instant(self.disabled_at),
        }


_COLUMNS: Final = "id, program_id, name, max_points, locked_until, created_at, disabled_at"
_INSERT: Final = f"""
INSERT INTO staff (id, program_id, name, pin_hash, max_points) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (program_id, name) WHERE disabled_at IS NULL DO NOTHING RETURNING {_COLUMNS}"""
_CHANGE: Final = f"""
UPDATE staff SET pin_hash = coalesce($3, pin_hash), tries = 0, locked_until = NULL,
  disabled_at = CASE WHEN $4 THEN now() END
WHERE program_id = $1 AND name = $2 AND disabled_at IS NULL RETURNING {_COLUMNS}"""
# After a lock the count begins again.
_TRY: Final = f"""
WITH tried AS (
  SELECT id, CASE WHEN locked_until IS NULL THEN tries + 1 ELSE 1 END AS tries FROM staff
  WHERE id = $1 AND program_id = $2 AND disabled_at IS NULL AND (locked_until IS NULL OR locked_until <= now())
  FOR UPDATE)
UPDATE staff SET tries = tried.tries, locked_until = CASE WHEN tried.tries >= {MAX_TRIES} THEN now() + $3::interval END
FROM tried WHERE staff.id = tried.id RETURNING staff.pin_hash, staff.locked_until"""


async def create_staff(
    postgres: Pool, program_id: UUID, name: str, *, max_points: int | None = None, actor: str
) -> tuple[Staff, str]:
    """Add a member of staff; return it with its PIN, which is shown only this once.

    Raises InvalidStaffError, StaffExistsError, PostgresUnavailableError.
    """
    problem = name_problem(name)
    if problem is not None:
        raise InvalidStaffError(problem)
    if max_points is not None and not 0 < max_points <= MAX_POINTS:
        raise InvalidStaffError(f"max_points must be from 1 to {MAX_POINTS}")
    pin = new_pin()
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_INSERT, uuid4(), program_id, name, hash_pin(pin), max_points)
        if row is None:
            raise StaffExistsError
        staff = _from_row(row)
        detail = {"program_id": program_id, "name": name, "max_points": max_points}
        await audit.record(connection, actor=actor, action="staff.create", subject=f"staff:{staff.id}", detail=detail)
    return staff, pin


async def renew_pin(postgres: Pool, program_id: UUID, name: str, *, actor: str) -> tuple[Staff, str]:
    """Give a member of staff another PIN, which also ends a lock. Raises StaffNotFoundError."""
    pin = new_pin()
    return await _change(postgres, program_id, name, hash_pin(pin), "staff.renew-pin", actor), pin


async def disable_staff(postgres: Pool, program_id: UUID, name: str, *, actor: str) -> Staff:
    """Refuse a member of staff from the next request on. Its name is free again. Raises StaffNotFoundError."""
    return await _change(postgres, program_id, name, None, "staff.disable", actor)


async def list_staff(postgres: Pool, program_id: UUID, *, disabled: bool = False) -> list[Staff]:
    """Return the staff of a program by name; with `disabled` also those who are disabled."""
    query = f"SELECT {_COLUMNS} FROM staff WHERE program_id = $1 AND ($2 OR disabled_at IS NULL) ORDER BY name, id"
    async with unavailable_translated():
        return [_from_row(row) for row in await postgres.fetch(query, program_id, disabled)]


async def find_staff(postgres: Pool, staff_id: UUID) -> Staff | None:
    """Return a member of staff that is not disabled."""
    query = f"SELECT {_COLUMNS} FROM staff WHERE id = $1 AND disabled_at IS NULL"
    async with unavailable_translated():
        row = await postgres.fetchrow(query, staff_id)
    return None if row is None else _from_row(row)


async def check_pin(postgres: Pool, program_id: UUID, staff_id: UUID, pin: str) -> Staff:
    """Return the member of staff whose PIN this is.

    Raises WrongPinError, PinLockedError, StaffNotFoundError, PostgresUnavailableError.
    """
    async with unavailable_translated():
        tried = await postgres.fetchrow(_TRY, staff_id, program_id, LOCKED_FOR)
    if tried is None:
        staff = await find_staff(postgres, staff_id)
        if staff is None or staff.program_id != program_id or staff.locked_until is None:
            raise StaffNotFoundError
        raise PinLockedError(staff.locked_until)
    if not await is_pin(pin, tried["pin_hash"]):
        if tried["locked_until"] is not None:
            raise PinLockedError(tried["locked_until"])
        raise WrongPinError
    query = f"UPDATE staff SET tries = 0, locked_until = NULL WHERE id = $1 RETURNING {_COLUMNS}"
    async with unavailable_translated():
        row = await postgres.fetchrow(query, staff_id)
    assert row is not None
    return _from_row(row)


async def _change(
    postgres: Pool, program_id: UUID, name: str, pin_hash: bytes | None, action: str, actor: str
) -> Staff:
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_CHANGE, program_id, name, pin_hash, pin_hash is None)
        if row is None:
            raise StaffNotFoundError
        await audit.record(connection, actor=actor, action=action, subject=f"staff:{row['id']}", detail={"name": name})
    return _from_row(row)


def _from_row(row: asyncpg.Record) -> Staff:
    return Staff(
        UUID(bytes=row["id"].bytes), UUID(bytes=row["program_id"].bytes), row["name"], row["max_points"],
        row["locked_until"], row["created_at"], row["disabled_at"],
    )  # fmt: skip

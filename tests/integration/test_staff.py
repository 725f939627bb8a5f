"""Staff of a till: a PIN each, few tries, and none for a member of staff that was disabled."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from uuid import uuid4

import pytest

from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.staff import (
    MAX_TRIES,
    InvalidStaffError,
    PinLockedError,
    Staff,
    StaffExistsError,
    StaffNotFoundError,
    WrongPinError,
    check_pin,
    create_staff,
    disable_staff,
    find_staff,
    list_staff,
    renew_pin,
)
from issuer.loyalty.terms import Terms
from issuer.recovery.opening import GuardedStores
from issuer.settings import Settings
from issuer.storage.grants import Process
from issuer.storage.postgres import Pool, close_pool, connect_pool
from tests.support.command import CommandInProcess
from tests.support.environment import settings_as


async def new_program(postgres: Pool) -> Program:
    return await create_program(postgres, uuid4(), "Beans", Terms(), actor="test")


def other(pin: str) -> str:
    return f"{(int(pin) + 1) % 10**6:06}"


async def test_staff_have_names_once_and_pins_that_are_stored_as_hashes(stores: GuardedStores) -> None:
    postgres = stores.postgres
    program, elsewhere = await new_program(postgres), await new_program(postgres)
    anna, pin = await create_staff(postgres, program.id, "Anna", max_points=500, actor="test")
    assert (anna.name, anna.max_points, len(pin), pin.isdigit()) == ("Anna", 500, 6, True)
    with pytest.raises(StaffExistsError):
        await create_staff(postgres, program.id, "Anna", actor="test")
    for name, most in (("", None), ("An\u202ena", None), ("Bea", 0), ("Bea", 10**12 + 1)):
        with pytest.raises(InvalidStaffError):
            await create_staff(postgres, program.id, name, max_points=most, actor="test")
    stored = await postgres.fetchval("SELECT pin_hash FROM staff")
    assert pin.encode() not in stored
    assert (await check_pin(postgres, program.id, anna.id, pin)).id == anna.id
    with pytest.raises(StaffNotFoundError):
        await check_pin(postgres, elsewhere.id, anna.id, pin)

    with pytest.raises(StaffNotFoundError):
        await disable_staff(postgres, elsewhere.id, "Anna", actor="test")
    await disable_staff(postgres, program.id, "Anna", actor="test")
    with pytest.raises(StaffNotFoundError):
        await check_pin(postgres, program.id, anna.id, pin)
    assert await find_staff(postgres, anna.id) is None
    second, _ = await create_staff(postgres, program.id, "Anna", actor="test")
    assert [one.id for one in await list_staff(postgres, program.id)] == [second.id]
    assert {one.id for one in await list_staff(postgres, program.id, disabled=True)} == {anna.id, second.id}
    actions = [row["action"] for row in await postgres.fetch("SELECT action FROM audit_log ORDER BY id")]
    assert actions[-3:] == ["staff.create", "staff.disable", "staff.create"]
    detail = await postgres.fetchval("SELECT string_agg(detail::text, '') FROM audit_log")
    assert pin not in detail


async def test_a_few_wrong_pins_lock_and_tries_at_the_same_time_count(
    stores: GuardedStores, settings: Settings
) -> None:
    program = await new_program(stores.postgres)
    anna, pin = await create_staff(stores.postgres, program.id, "Anna", actor="test")
    # With the rights of the API, which may change nothing of staff but the tries.
    postgres = await connect_pool(settings_as(settings, Process.API), size=4)
    try:

        async def attempt(given: str) -> Staff:
            return await check_pin(postgres, program.id, anna.id, given)

        with pytest.raises(WrongPinError):
            await attempt(other(pin))
        await attempt(pin)
        assert await postgres.fetchval("SELECT tries FROM staff") == 0, "the right PIN ends the count"

        outcomes = await asyncio.gather(*(attempt(other(pin)) for _ in range(2 * MAX_TRIES)), return_exceptions=True)
        assert sum(isinstance(outcome, WrongPinError) for outcome in outcomes) == MAX_TRIES - 1
        assert sum(isinstance(outcome, PinLockedError) for outcome in outcomes) == MAX_TRIES + 1
        with pytest.raises(PinLockedError):
            await attempt(pin)

        # The lock has ended: the count begins again.
        await stores.postgres.execute("UPDATE staff SET locked_until = now() - interval '1 s'")
        with pytest.raises(WrongPinError):
            await attempt(other(pin))
        await attempt(pin)
        await asyncio.gather(*(attempt(other(pin)) for _ in range(MAX_TRIES)), return_exceptions=True)
        _, renewed = await renew_pin(stores.postgres, program.id, "Anna", actor="test")
        await attempt(renewed)
        if renewed != pin:
            with pytest.raises(WrongPinError):
                await attempt(pin)
    finally:
        await close_pool(postgres)


@pytest.mark.long
def test_an_operator_manages_staff(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = CommandInProcess(settings, tmp_path, monkeypatch, "loyalty", "programs")
    assert programs("create", "--name", "Beans", "--client", str(uuid4())).status == 0
    issuer = CommandInProcess(settings, tmp_path, monkeypatch, "loyalty", "staff")
    anna = issuer("create", "Beans", "Anna", "--max-points", "500", "--json").json
    assert (anna["name"], anna["max_points"], len(anna["pin"])) == ("Anna", 500, 6)
    assert re.fullmatch(r"\d{6}\n", issuer("new-pin", "Beans", "Anna").out)
    refused = issuer("create", "Beans", "Anna")
    assert (refused.status, "another member of staff has this name" in refused.err) == (2, True)
    assert [issuer("disable", "Beans", "Anna").status for _ in range(2)] == [0, 2]
    (listed,) = issuer("list", "Beans", "--json").json
    assert (listed["name"], listed["disabled_at"] is None, "pin" in listed) == ("Anna", False, False)
    assert issuer("day", "Beans", "--date", "2026-06-01", "--json").json == []
    assert issuer("day", "Beans", "--date", "soon").status == 2

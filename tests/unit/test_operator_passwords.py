"""Passwords of operators: how much of a machine their checks may take."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from issuer.operators import passwords


async def test_passwords_are_checked_one_after_another_with_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most, clock, rests = threading.Lock(), [0], [0], [0.0], []

    def verify(password: str, stored: str) -> bool:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.005)
        with lock:
            running[0] -= 1
            clock[0] += 0.02
        return password == stored

    async def rest(seconds: float) -> None:
        rests.append(round(seconds, 6))

    monkeypatch.setattr(passwords, "_verify", verify)
    monkeypatch.setattr(passwords, "_now", lambda: clock[0])
    monkeypatch.setattr(asyncio, "sleep", rest)
    found = await asyncio.gather(*(passwords.is_password("a", stored) for stored in "abcaaa"))
    assert found == [True, False, False, True, True, True]
    assert (most[0], rests) == (1, [0.06] * 6)


def test_a_chosen_password_is_no_name_and_no_few_characters_again_and_again() -> None:
    for password, name in (
        ("passwordpassword", "ada"), ("abcdabcdabcd", "ada"), ("aaaaaaaabbbb", "ada"), ("my name is ADAM", "adam"),
    ):  # fmt: skip
        with pytest.raises(passwords.InvalidPasswordError):
            passwords.check_new_password(password, name)
    for password, name in (("a canada goose", "ada"), ("four grey cats at sea", "at")):
        passwords.check_new_password(password, name)

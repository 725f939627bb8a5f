"""Passwords of operators, stored as Argon2id hashes (RFC 9106), which are computed beside the event loop.

The first password of an operator is random. The operator replaces it with one of at least MIN_LENGTH characters;
nothing else is demanded of it but that it is neither the name nor a few characters again and again (NIST SP 800-63B).
"""

from __future__ import annotations

import asyncio
import secrets
import time
import unicodedata
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 128
MIN_DISTINCT: Final = 5
MIN_NAME: Final = 4
"""Letters of a name that a password may not contain: shorter ones are parts of many words."""
GROUPS: Final = 4
GROUP_LENGTH: Final = 5
ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
"""Without characters that are read as others."""
MAX_WAITING: Final = 32
"""Passwords that may wait to be checked in one process: who sends more keeps no one waiting for long."""

# What OWASP recommends at least: 19 MiB and about 20 ms of one core, since anyone may have a password checked.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_REST: Final = 3
"""A check is followed by a rest of this multiple of its length: a flood of sign-ins costs a quarter of one core."""
_MAX_REST_S: Final = 0.5
_at_once = asyncio.Semaphore(1)
_now = time.monotonic
_waiting = 0


class InvalidPasswordError(ValueError):
    """A new password is not acceptable; the message says why."""


class PasswordsBusyError(Exception):
    """Too many passwords wait to be checked."""


def new_password() -> str:
    """Return a random password of 99 bits, in groups that a person can type."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(GROUP_LENGTH)) for _ in range(GROUPS))
    return "-".join(groups)


def check_new_password(password: str, name: str) -> None:
    """Raise InvalidPasswordError for a password that an operator of this name may not choose."""
    text = _normal(password)
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
        raise InvalidPasswordError(f"Use {MIN_LENGTH} to {MAX_LENGTH} characters.")
    folded, of_name = text.casefold(), len(name) >= MIN_NAME and name.casefold() in text.casefold()
    # A text that is within itself twice, but for the ends, is a shorter one again and again.
    if len(set(folded)) < MIN_DISTINCT or folded in (folded * 2)[1:-1] or of_name:
        raise InvalidPasswordError("Use neither your name nor the same few characters again and again.")


async def hash_password(password: str) -> str:
    """Return the hash of a password, as it is stored."""
    async with _at_once:
        return await asyncio.to_thread(_HASHER.hash, _normal(password))


async def is_password(password: str, stored: str | None) -> bool:
    """Return whether this is the password whose hash is stored. With None, after the same work: no.

    Raises PasswordsBusyError.
    """
    global _waiting
    if _waiting >= MAX_WAITING:
        raise PasswordsBusyError
    _waiting += 1
    try:
        async with _at_once:
            began = _now()
            matches = await asyncio.to_thread(_verify, _normal(password[: MAX_LENGTH * 4]), stored or _unmatched())
            await asyncio.sleep(min(_REST * (_now() - began), _MAX_REST_S))
    finally:
        _waiting -= 1
    return matches and stored is not None


def is_outdated(stored: str) -> bool:
    """Return whether a hash was computed with other parameters than today's."""
    return _HASHER.check_needs_rehash(stored)


def _verify(password: str, stored: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


@cache
def _unmatched() -> str:
    """Return the hash of a password that is not known to anyone."""
    return _HASHER.hash(secrets.token_urlsafe(32))


def _normal(password: str) -> str:
    """Return a password in the form in which two spellings of the same characters are equal."""
    return unicodedata.normalize("NFKC", password)

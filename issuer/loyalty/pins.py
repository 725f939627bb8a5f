"""PINs of staff: six random digits, stored as a slow hash (RFC 7914), which is computed beside the event loop.

A PIN is only asked for where an API key has signed in, and only a few times (`issuer.loyalty.staff_store`). The hash
protects the PINs of a stolen backup for hours, not for good: six digits have a million values.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import Final

DIGITS: Final = 6
_COST: Final = 2**14
"""16 MiB and about 50 ms. Of two at once, however many ask."""
_SALT_BYTES: Final = 16
_at_once = asyncio.Semaphore(2)


def new_pin() -> str:
    """Return a random PIN. Staff cannot choose one: chosen ones are years and patterns."""
    return f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"


def hash_pin(pin: str) -> bytes:
    """Return the salt and the hash of a PIN, as they are stored."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return salt + _scrypt(pin, salt)


async def is_pin(pin: str, stored: bytes) -> bool:
    """Return whether this is the PIN whose hash is stored."""
    salt, expected = stored[:_SALT_BYTES], stored[_SALT_BYTES:]
    async with _at_once:
        return hmac.compare_digest(await asyncio.to_thread(_scrypt, pin, salt), expected)


def _scrypt(pin: str, salt: bytes) -> bytes:
    return hashlib.scrypt(pin.encode(errors="replace"), salt=salt, n=_COST, r=8, p=1, dklen=32)

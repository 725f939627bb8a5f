"""Login tokens: a six-digit code and a link for one e-mail address, valid for 15 minutes and used once.

The code is valid in the browser that asked for it, for MAX_TRIES tries; the link is valid in any browser, since mail is
often read on another device. A code that staff read to a person has no browser: it is valid in each one that asks for
the same address. A token is deleted by its use, so that two uses at the same time cannot both succeed.

A row is written for each request, whether or not a member has the address: both cost the same.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final
from uuid import UUID

from issuer.sessions.tokens import new_token, token_hash
from issuer.storage.postgres import AnyConnection, Pool, count_of, unavailable_translated

LIFETIME: Final = timedelta(minutes=15)
MAX_TRIES: Final = 5
DIGITS: Final = 6


class TokenPurpose(StrEnum):
    """LOGIN: sign in, or open an account. EMAIL: confirm the new address of a member."""

    LOGIN = "login"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An e-mail address as it was given, and as two of them are compared."""

    given: str = field(repr=False)
    folded: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoginToken:
    """What was created and is sent, and stored nowhere."""

    code: str = field(repr=False)
    link: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UsedToken:
    """What a token that was used proves: its bearer reads the mail of `email`."""

    email: EmailAddress
    member_id: UUID | None


_REPLACE: Final = "DELETE FROM login_tokens WHERE browser = $1 AND purpose = $2"

_CREATE: Final = """
INSERT INTO login_tokens (hash, purpose, program_id, browser, code_hash, email, email_folded, member_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + $9)"""

_PENDING: Final = """
SELECT email FROM login_tokens WHERE browser = $1 AND program_id = $2 AND purpose = $3 AND expires_at > now()
ORDER BY created_at DESC LIMIT 1"""

# A try is counted before the code is compared. The condition is checked again under the lock of the row.
_TRY: Final = f"""
WITH own AS (
  SELECT hash, email_folded FROM login_tokens
  WHERE browser = $1 AND program_id = $2 AND purpose = $3 AND expires_at > now() ORDER BY created_at DESC LIMIT 1)
UPDATE login_tokens t SET tries = tries + 1 FROM own
WHERE (t.hash = own.hash OR (
    t.browser IS NULL AND t.email_folded = own.email_folded AND t.program_id = $2 AND t.purpose = $3))
  AND t.expires_at > now() AND t.tries < {MAX_TRIES}
RETURNING t.hash, t.code_hash"""

_USE: Final = """
DELETE FROM login_tokens WHERE hash = $1 AND program_id = $2 AND purpose = $3 AND expires_at > now()
RETURNING email, email_folded, member_id"""

_DELETE_EXPIRED: Final = """
DELETE FROM login_tokens WHERE hash IN (
  SELECT hash FROM login_tokens WHERE expires_at <= now() ORDER BY expires_at LIMIT $1)"""


async def create_login_token(
    connection: AnyConnection,
    purpose: TokenPurpose,
    program_id: UUID,
    email: EmailAddress,
    *,
    browser: str | None,
    member_id: UUID | None = None,
) -> LoginToken:
    """Create a token, in the place of those of the same browser. `browser`: the token in its cookie; None: staff's."""
    link, code = new_token(), f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    hashed = token_hash(link)
    assert hashed is not None
    of_browser = None if browser is None else token_hash(browser)
    if of_browser is not None:
        await connection.execute(_REPLACE, of_browser, purpose)
    await connection.execute(
        _CREATE, hashed, purpose, program_id, of_browser, _code_hash(hashed, code), email.given, email.folded,
        member_id, LIFETIME,
    )  # fmt: skip
    return LoginToken(code, link)


async def pending_email(postgres: Pool, purpose: TokenPurpose, program_id: UUID, *, browser: str) -> str | None:
    """Return the address for which this browser last asked; None: it did not, or too long ago."""
    async with unavailable_translated():
        email: str | None = await postgres.fetchval(_PENDING, token_hash(browser), program_id, purpose)
        return email


async def try_code(postgres: Pool, purpose: TokenPurpose, program_id: UUID, code: str, *, browser: str) -> bytes | None:
    """Count a try and return the hash of the token that has this code, for `use_token`; None: the code is not valid.

    It commits by itself: a rollback of what follows takes no try back.
    """
    async with unavailable_translated():
        tried = await postgres.fetch(_TRY, token_hash(browser), program_id, purpose)
    digits = "".join(code.split())
    found = [row["hash"] for row in tried if hmac.compare_digest(row["code_hash"], _code_hash(row["hash"], digits))]
    return found[0] if found else None


async def use_token(
    connection: AnyConnection, purpose: TokenPurpose, program_id: UUID, hashed: bytes
) -> UsedToken | None:
    """Use a token in the transaction of `connection`; None: it is unknown, used or expired."""
    row = await connection.fetchrow(_USE, hashed, program_id, purpose)
    if row is None:
        return None
    return UsedToken(EmailAddress(row["email"], row["email_folded"]), row["member_id"])


async def delete_expired_tokens(postgres: Pool, limit: int) -> int:
    """Delete expired tokens, at most `limit`; return how many. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        return count_of(await postgres.execute(_DELETE_EXPIRED, limit))


def _code_hash(hashed: bytes, code: str) -> bytes:
    return sha256(hashed + code.encode()).digest()

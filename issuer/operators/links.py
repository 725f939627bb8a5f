"""One-time links: who can run a command on the host signs in to the console without a password.

A link is valid for LIFETIME and is deleted by its use, so that two uses at the same time cannot both succeed. Only the
hash of its token is stored. The API may use links, but only a command can create one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from issuer.access import audit
from issuer.sessions.tokens import new_token, token_hash
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

LIFETIME: Final = timedelta(minutes=10)
PATH: Final = "/console/link/"
"""What comes before the token in the path of a link."""

_DELETE_EXPIRED: Final = "DELETE FROM console_links WHERE expires_at <= now()"
_CREATE: Final = "INSERT INTO console_links (hash, made_by, expires_at) VALUES ($1, $2, now() + $3)"
_USE: Final = "DELETE FROM console_links WHERE hash = $1 AND expires_at > now() RETURNING made_by"


async def create_link(postgres: Pool, *, actor: str) -> str:
    """Return the path of a new link, which is stored nowhere. Raises PostgresUnavailableError."""
    token = new_token()
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        await connection.execute(_DELETE_EXPIRED)
        await connection.execute(_CREATE, token_hash(token), actor, LIFETIME)
        await audit.record(connection, actor=actor, action="console.link", subject="console", detail={})
    return PATH + token


async def use_link(connection: AnyConnection, token: str) -> str | None:
    """Use a link in the transaction of `connection`; return who made it, or None: it is unknown, used or expired."""
    hashed = token_hash(token)
    made_by: str | None = None if hashed is None else await connection.fetchval(_USE, hashed)
    return made_by

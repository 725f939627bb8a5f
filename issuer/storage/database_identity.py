"""The identity of the database: a copy of it must not record what was redeemed for the original, nor the reverse.

`installation.database` holds the identity of the database in which it was written first. A copy (CREATE DATABASE …
TEMPLATE, a restored dump) has the row with another identity, and is refused until an operator adopts it with `issuer
recover --restored`. A standby that takes over is no copy: it has the same identity. A copied data directory has it as
well; that one is detected by its lineage, once both have been used (`issuer.storage.lineage`).
"""

from __future__ import annotations

from typing import Final

import asyncpg

from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError

_IDENTITY: Final = "{system} || '/' || (SELECT oid::text FROM pg_database WHERE datname = current_database())"
# The identifier of the cluster, which initdb draws.
_SYSTEM: Final = "(SELECT system_identifier::text FROM pg_control_system())"

RESTORE_MARKER: Final = "restore_progress"
"""A table that exists while `issuer restore` fills the database: it is a copy then, whatever its identity."""
_BEING_RESTORED: Final = "being restored"
STORED_SQL: Final = f"CASE WHEN to_regclass('{RESTORE_MARKER}') IS NULL THEN database ELSE '{_BEING_RESTORED}' END"
"""The expression over the installation for what `refuse_other` takes."""
_STORED: Final = f"SELECT {STORED_SQL} FROM installation"


class CopiedDatabaseError(PostgresUnavailableError):
    """The database is a copy of the one that was used before. The message says what to do."""

    def __init__(self, stored: str, found: str) -> None:
        super().__init__(
            "this database is being restored: repeat `issuer restore` to finish that"
            if stored == _BEING_RESTORED
            else f"this database ({found}) is a copy of the one of this installation ({stored}), which may still be in"
            " use. Correct ISSUER_DATABASE_URL; or, if the copy is to take its place, run `issuer recover --restored`,"
            " and never again use the other one with this Redis"
        )


async def identity_sql(connection: AnyConnection | Pool) -> str:
    """Return the expression for the identity of the connected database, as far as this role may read it.

    The identity is system identifier / database oid. Some providers forbid to read the first.
    """
    expression = _IDENTITY.format(system=_SYSTEM)
    try:
        await connection.fetchval(f"SELECT {expression}")
    except asyncpg.InsufficientPrivilegeError:
        return _IDENTITY.format(system="''")
    return expression


async def read_identity(connection: AnyConnection | Pool) -> str:
    """Return the identity of the connected database."""
    return str(await connection.fetchval(f"SELECT {await identity_sql(connection)}"))


# Its first eight digits are the timeline.
_WAL_FILE: Final = "SELECT pg_walfile_name(pg_current_wal_lsn())"


async def read_timeline(connection: AnyConnection | Pool) -> str:
    """Return the timeline of Postgres, which each promotion of a standby changes; empty: it may not be read."""
    try:
        return str(await connection.fetchval(_WAL_FILE))[:8]
    except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFunctionError):
        return ""


def is_same(stored: str, found: str) -> bool:
    """Return whether two identities can be those of one database. A part that one of them lacks is not compared."""
    return all(
        one == other or not one or not other for one, other in zip(stored.split("/"), found.split("/"), strict=True)
    )


def refuse_other(stored: str | None, found: str) -> None:
    """Raise CopiedDatabaseError if the database with the identity `found` is not the one of the installation."""
    if stored is not None and (stored == _BEING_RESTORED or not is_same(stored, found)):
        raise CopiedDatabaseError(stored, found)


async def refuse_copy(connection: AnyConnection | Pool) -> None:
    """Raise CopiedDatabaseError if another database is the one of the installation."""
    stored = await connection.fetchval(_STORED)
    if stored is not None:
        refuse_other(stored, await read_identity(connection))

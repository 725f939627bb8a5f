"""The roles of the API and the worker: create them, grant what `issuer.storage.grants` lists, find what is too much.

Names are ISSUER_ROLE_PREFIX with `_api` and `_worker`. Roles belong to the whole server, not to one database: two
installations on one server need two prefixes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

import asyncpg
import structlog

from issuer.settings import Settings
from issuer.storage.grants import DATABASE, FUNCTIONS, TABLES, Process, split_privileges
from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError, unavailable_translated

log = structlog.get_logger()

SCRAM_ITERATIONS: Final = 4096


@dataclass(slots=True)
class RoleSetup:
    """What `create_roles` did. `problems` are lines for the operator, with what to do; empty: all roles are usable."""

    created: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def role_name(settings: Settings, process: Process) -> str:
    return f"{settings.role_prefix}_{process}"


def role_names(settings: Settings) -> list[str]:
    return [role_name(settings, process) for process in Process]


def roles_sql(settings: Settings, owner: str = "OWNER") -> list[str]:
    """Return the statements that an administrator runs where the owner of the tables may not create roles."""
    names = role_names(settings)
    return [*(f"CREATE ROLE {name} LOGIN" for name in names), f"GRANT {', '.join(names)} TO {owner}"]


async def create_roles(settings: Settings) -> RoleSetup:
    """Create the roles that are missing, as far as the owner may; safe to repeat and to run at the same time twice.

    A role gets the password of the URL that names it. The owner becomes a member of both roles: only so may it end the
    sessions of a frozen process. Needs CREATEROLE, not a superuser. Raises PostgresUnavailableError.
    """
    setup = RoleSetup()
    async with unavailable_translated():
        connection = await asyncpg.connect(
            settings.as_owner().database_url.get_secret_value(),
            timeout=10,
            server_settings={"application_name": "issuer migrate"},
        )
        try:
            for process in Process:
                await _create_role(connection, settings, process, setup)
        finally:
            await connection.close()
    return setup


async def _create_role(connection: AnyConnection, settings: Settings, process: Process, setup: RoleSetup) -> None:
    name = role_name(settings, process)
    if await connection.fetchval("SELECT current_user") == name:
        setup.problems.append(
            f"this is the role {name}, which may not change the schema: set ISSUER_OWNER_DATABASE_URL"
        )
        return
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
            await connection.execute(f"CREATE ROLE {name} LOGIN")
            setup.created.append(name)
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # another `issuer migrate` created it meanwhile
    except asyncpg.InsufficientPrivilegeError:
        setup.problems.append(
            f"there is no role {name}, and this one may not create it: let an administrator run the statements that"
            " `issuer migrate --print-roles` prints, then repeat `issuer migrate`"
        )
        return
    await _join(connection, name, setup)
    if (password := _password_of(settings, process, name)) is not None:
        await _set_password(connection, name, password, setup)


async def _join(connection: AnyConnection, name: str, setup: RoleSetup) -> None:
    if await connection.fetchval("SELECT pg_has_role($1, 'USAGE')", name):
        return
    try:
        await connection.execute(f"GRANT {name} TO CURRENT_USER")
    except asyncpg.UniqueViolationError:
        pass
    except asyncpg.InsufficientPrivilegeError:
        setup.problems.append(
            f"the owner is not a member of {name}, so a recovery cannot end the sessions of a frozen process:"
            f" let an administrator grant it ({name} to the owner)"
        )


def _password_of(settings: Settings, process: Process, name: str) -> str | None:
    chosen = settings.as_worker() if process is Process.WORKER else settings
    parts = urlsplit(chosen.database_url.get_secret_value())
    return unquote(parts.password) if parts.username == name and parts.password else None


async def _set_password(connection: AnyConnection, name: str, password: str, setup: RoleSetup) -> None:
    try:
        await connection.execute(f"ALTER ROLE {name} PASSWORD '{scram_verifier(password)}'")
    except asyncpg.InsufficientPrivilegeError:
        setup.problems.append(f"this role may not set the password of {name}: an administrator has to")
    except asyncpg.InternalServerError:
        pass  # "tuple concurrently updated": another `issuer migrate` sets the same password


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """Return what Postgres stores for a password (RFC 5803), so that the password itself reaches no server log."""
    salt = os.urandom(16) if salt is None else salt
    prepared = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", prepared, salt, SCRAM_ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored = base64.b64encode(hashlib.sha256(client_key).digest()).decode()
    server = base64.b64encode(hmac.digest(salted, b"Server Key", "sha256")).decode()
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{base64.b64encode(salt).decode()}${stored}:{server}"


EXISTING_ROLES: Final = "SELECT rolname FROM pg_roles WHERE rolname = ANY ($1) AND rolname <> current_user"
OWNS_DATABASE: Final = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"


def grant_statements(
    settings: Settings, existing: Sequence[str], *, schema: str, database: str | None
) -> Iterator[str]:
    """Yield what gives each existing role the rights of `grants`, and takes every other right on the schema from it.

    `database`: its name if the owner of the tables may grant rights on it.
    """
    for function in FUNCTIONS:
        yield f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"
    for process in Process:
        name = role_name(settings, process)
        if name not in existing:
            continue
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            yield f'REVOKE ALL ON ALL {kind} IN SCHEMA "{schema}" FROM {name}'
        yield f'REVOKE ALL ON SCHEMA "{schema}" FROM {name}'
        yield f'GRANT USAGE ON SCHEMA "{schema}" TO {name}'
        if database is not None:
            yield f'GRANT {", ".join(DATABASE)} ON DATABASE "{database}" TO {name}'
        for table, rights in TABLES.items():
            if privileges := rights.of(process):
                yield f"GRANT {privileges} ON {table} TO {name}"
        for function, rights in FUNCTIONS.items():
            if privileges := rights.of(process):
                yield f"GRANT {privileges} ON FUNCTION {function} TO {name}"


_LACKING: Final = """
SELECT concat_ws(' ', privilege, 'on', object, '(' || col || ')')
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted(object, privilege, col)
WHERE NOT CASE WHEN privilege = 'EXECUTE' THEN has_function_privilege(object, privilege)
               WHEN privilege IN ('CONNECT', 'TEMPORARY') THEN has_database_privilege(object, privilege)
               WHEN col IS NULL THEN has_table_privilege(object, privilege)
               ELSE has_column_privilege(object, col, privilege) END"""

_EXCESS: Final = """
SELECT 'is a superuser' FROM pg_roles WHERE rolname = current_user AND rolsuper
UNION ALL
SELECT 'may create roles' FROM pg_roles WHERE rolname = current_user AND rolcreaterole AND NOT rolsuper
UNION ALL
SELECT 'owns the tables' FROM pg_class WHERE oid = 'redemptions'::regclass AND pg_has_role(relowner, 'USAGE')
UNION ALL
SELECT 'may create tables' WHERE has_schema_privilege(current_schema(), 'CREATE')
UNION ALL
SELECT 'may ' || lower(privilege) || ' rows of ' || name
FROM unnest($1::text[]) AS name, unnest('{UPDATE,DELETE,TRUNCATE}'::text[]) AS privilege
WHERE has_table_privilege(name, privilege)"""

APPEND_ONLY: Final = ("redemptions", "consumptions", "reversals", "audit_log")
"""Tables whose rows no process may change or delete (but for the column returned_at of a reversal)."""


async def lacking_rights(connection: AnyConnection, process: Process) -> list[str]:
    """Return the privileges of the process that the role of this connection lacks, in words."""
    database: str = await connection.fetchval("SELECT current_database()")
    wanted: list[tuple[str, str, str | None]] = [(database, privilege, None) for privilege in DATABASE]
    for name, rights in (TABLES | FUNCTIONS).items():
        wanted += [(name, privilege, column) for privilege, column in split_privileges(rights.of(process))]
    rows = await connection.fetch(_LACKING, *(list(column) for column in zip(*wanted, strict=True)))
    return [row[0] for row in rows]


async def excess_rights(connection: AnyConnection) -> list[str]:
    """Return what the role of this connection may do and no process needs, in words."""
    return [row[0] for row in await connection.fetch(_EXCESS, list(APPEND_ONLY))]


async def log_rights(postgres: Pool, process: Process) -> None:
    """Log at the start of a process that its role has more rights than it needs, or lacks some. Never raises.

    With Postgres unavailable nothing is logged: `issuer doctor` checks the same.
    """
    try:
        async with unavailable_translated(), postgres.acquire() as connection:
            role = await connection.fetchval("SELECT current_user")
            if lacking := await lacking_rights(connection, process):
                log.error("the Postgres role lacks rights; run `issuer migrate`", role=role, lacking=lacking)
            if excess := await excess_rights(connection):
                log.warning(
                    "the Postgres role has more rights than this process needs; see docs/deployment.md",
                    role=role, rights=excess,
                )  # fmt: skip
    except (PostgresUnavailableError, asyncpg.PostgresError) as error:
        log.debug("the rights of the Postgres role are unknown", reason=str(error))

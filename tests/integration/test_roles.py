"""The roles of the API and the worker: what they may do is what issuer/storage/grants.py lists, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from issuer.journal.journal import Journal
from issuer.recovery.doctor import examine_roles
from issuer.registration.replay import settle_dead
from issuer.settings import Settings
from issuer.storage.grants import FUNCTIONS, TABLES, Process, split_privileges
from issuer.storage.migrate import migrate
from issuer.storage.postgres import RECOVERY_LOCK, Connection, close_pool, connect_pool
from issuer.storage.roles import (
    create_roles,
    excess_rights,
    lacking_rights,
    log_rights,
    role_names,
    roles_sql,
    scram_verifier,
)
from tests.support.databases import settings_for
from tests.support.environment import settings_as, url_as
from tests.support.servers import PostgresServer

pytestmark = pytest.mark.long

_numbers: Final = itertools.count(1)

_GRANTED: Final = """
SELECT c.relname AS name, a.privilege_type AS privilege, NULL AS col
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'public'::regnamespace AND a.grantee = $1::text::regrole
UNION ALL
SELECT c.relname, a.privilege_type, t.attname
FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
WHERE c.relnamespace = 'public'::regnamespace AND a.grantee = $1::text::regrole
UNION ALL
SELECT p.proname || '(' || oidvectortypes(p.proargtypes) || ')', a.privilege_type, NULL
FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'public'::regnamespace AND a.grantee = $1::text::regrole"""

_TABLES: Final = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"""

_FUNCTIONS: Final = """
SELECT proname || '(' || oidvectortypes(proargtypes) || ')' FROM pg_proc WHERE pronamespace = 'public'::regnamespace"""

_OPEN_TO_ALL: Final = """
SELECT proname FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def unlisted(connection: Connection) -> set[str]:
    """Tables and functions of the database that issuer/storage/grants.py does not list."""
    found = {row[0] for row in await connection.fetch(_TABLES)} - TABLES.keys()
    return found | {row[0] for row in await connection.fetch(_FUNCTIONS)} - FUNCTIONS.keys()


async def test_every_table_and_function_is_listed(database_url: str) -> None:
    async with connected(database_url) as owner:
        assert await unlisted(owner) == set(), "add it to issuer/storage/grants.py, with the rights of each process"
        assert {row[0] for row in await owner.fetch(_TABLES)} == TABLES.keys()
        assert {row[0] for row in await owner.fetch(_FUNCTIONS)} == FUNCTIONS.keys()
        assert await owner.fetch(_OPEN_TO_ALL) == []
        await owner.execute("CREATE TABLE added (id int)")
        assert await unlisted(owner) == {"added"}


@pytest.mark.parametrize("process", Process)
async def test_a_role_has_the_listed_rights_and_no_others(database_url: str, process: Process) -> None:
    listed = {
        (name, privilege, column)
        for name, rights in (TABLES | FUNCTIONS).items()
        for privilege, column in split_privileges(rights.of(process))
    }
    async with connected(database_url) as owner:
        rows = await owner.fetch(_GRANTED, f"issuer_{process}")
    assert {tuple(row) for row in rows} == listed


FORBIDDEN: Final = {
    "read a file of the server": "SELECT pg_read_file('/etc/passwd')",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "create a table": "CREATE TABLE own (id int)",
    "create a schema": "CREATE SCHEMA own",
    "create a function": "CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "add a column": "ALTER TABLE redemptions ADD COLUMN own int",
    "drop a table": "DROP TABLE audit_log",
    "switch triggers off": "SET session_replication_role = replica",
    "create a role": "CREATE ROLE own",
    "become the owner": "SET ROLE postgres",
    "change the schema's version": "UPDATE alembic_version SET version_num = '9999'",
    "change a redemption": "UPDATE redemptions SET customer_id = NULL",
    "delete a redemption": "DELETE FROM redemptions",
    "empty the redemptions": "TRUNCATE redemptions",
    "change a consumption": "UPDATE consumptions SET order_id = 'other'",
    "delete a consumption": "DELETE FROM consumptions",
    "empty the consumptions": "TRUNCATE consumptions CASCADE",
    "change who reversed": "UPDATE reversals SET actor = 'other'",
    "delete a reversal": "DELETE FROM reversals",
    "empty the reversals": "TRUNCATE reversals",
    "change the audit log": "UPDATE audit_log SET actor = 'other'",
    "delete from the audit log": "DELETE FROM audit_log",
    "empty the audit log": "TRUNCATE audit_log",
    "move the ends of the audit log": "UPDATE audit_ends SET id = 0",
    "delete an entry before its commit": "DELETE FROM audit_intake",
    "change an anomaly": "UPDATE anomalies SET kind = 'other'",
    "change an API key": "UPDATE api_keys SET scopes = '{admin}'",
    "delete codes": "DELETE FROM codes",
    "renumber codes": "UPDATE codes SET seq = seq + 1",
    "change the installation's id": "UPDATE installation SET id = gen_random_uuid()",
}

FORBIDDEN_TO: Final = {
    Process.API: {"cut the audit log": "SELECT audit_cut(now() - interval '1 year', 1)"},
    Process.WORKER: {
        "erase a customer": "SELECT * FROM erase_customer(gen_random_uuid())",
        "create an API key": "INSERT INTO api_keys (name, secret_sha256, scopes) VALUES ('x', sha256('x'), '{admin}')",
    },
}


@pytest.mark.parametrize("process", Process)
async def test_a_role_may_not(database_url: str, process: Process) -> None:
    allowed = []
    async with connected(url_as(database_url, process)) as connection:
        for act, statement in (FORBIDDEN | FORBIDDEN_TO[process]).items():
            with suppress(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
                allowed.append(act)
        assert allowed == []
        assert await lacking_rights(connection, process) == []
        assert await excess_rights(connection) == []


_INSERT_BATCH: Final = "INSERT INTO batches (partition, id, name) VALUES (0, $1, 'B')"
_INSERT_POOL: Final = "INSERT INTO pools (batch_id, client_id) VALUES ($1, $1)"
_INSERT_LEDGER: Final = (
    "INSERT INTO redemptions (pool_id, seq, batch_id, code, customer_id, customer_text, redeemed_at, call_id, key_hash,"
    " api_key_id, epoch) SELECT id, $1, batch_id, 'C' || $1::bigint, $2, 'anna', now(), gen_random_uuid(), 'k', 1, 1"
    " FROM pools",
    "INSERT INTO consumptions (pool_id, seq, terms, customer_id, customer_text, order_id, consumed_at, call_id,"
    " key_hash, api_key_id, epoch) SELECT id, $1, 1, $2, 'anna', 'o', now(), gen_random_uuid(), 'k', 1, 1 FROM pools",
)


async def test_erasures_remove_the_customer_or_its_text_and_nothing_else(database_url: str) -> None:
    customer, other, client, others = uuid4(), uuid4(), uuid4(), uuid4()
    async with connected(database_url) as owner, connected(url_as(database_url, Process.WORKER)) as worker:

        async def ledger() -> list[dict[str, Any]]:
            tables = ("redemptions", "consumptions")
            return [
                dict(row) for name in tables for row in await owner.fetch(f"SELECT * FROM {name} ORDER BY pool_id, seq")
            ]

        # The ids of their batches, too.
        for one in (client, others):
            await owner.execute(_INSERT_BATCH, one)
            await owner.execute(_INSERT_POOL, one)
        for statement in _INSERT_LEDGER:
            for seq, who in enumerate((customer, other), 1):
                await owner.execute(statement, seq, who)
        # The customer's are the first and the third of each table; of the client, the first.
        expected = await ledger()
        await worker.execute("SELECT forget_customer_texts($1, $2)", [customer], client)
        for at in (0, 4):
            expected[at]["customer_text"] = None
        assert await ledger() == expected
        rows = await owner.fetch("SELECT * FROM erase_customer($1)", customer)
        erased = {tuple(row) for row in rows}
        assert erased == {(one, 1, of_coupons) for one in (client, others) for of_coupons in (False, True)}
        for at in (0, 2, 4, 6):
            expected[at] |= {"customer_id": None, "customer_text": None, "key_hash": None}
        assert await ledger() == expected


@pytest.mark.parametrize("process", list(Process))
async def test_a_recovery_of_either_process_settles_what_a_dead_one_left(
    database_url: str, process: Process, tmp_path: Path
) -> None:
    """Each process recovers Redis, and both may have the journals of their host."""
    settings = settings_for("redis://127.0.0.1:1/0", url_as(database_url, process), tmp_path)
    async with connected(database_url) as owner:
        installation = await owner.fetchval(
            "INSERT INTO installation (partitions, key_format, event_format, max_backlog)"
            " VALUES (4, 1, 1, 9) RETURNING id"
        )
        assert settings.journals is not None
        journal = Journal(settings.journals, UUID(bytes=installation.bytes))
        journal.close()
        await owner.execute(
            "INSERT INTO registrations (journal_id, epoch, process, host, boot_id, has_journal)"
            " VALUES ($1, 1, '', '', '', true)",
            journal.id,
        )
        await settle_dead(settings, UUID(bytes=installation.bytes))
        assert await owner.fetchval("SELECT settled::text FROM registrations") == "{}"


class Managed:
    """A database on the shared server whose owner is no superuser, as on a managed server."""

    def __init__(self, server: PostgresServer, *, creates_roles: bool) -> None:
        name = f"managed_{next(_numbers)}"
        server.psql(f"CREATE ROLE {name} LOGIN {'CREATEROLE' if creates_roles else ''}")
        server.psql(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0")
        self.server = server
        self.settings = Settings(
            database_url=SecretStr(self.url(f"{name}_api", "secret")),
            worker_database_url=SecretStr(self.url(f"{name}_worker")),
            owner_database_url=SecretStr(self.url(name)),
            role_prefix=name,
        )

    def url(self, role: str, password: str = "") -> str:
        name = role.removesuffix("_api").removesuffix("_worker")
        return self.server.url(name).replace("//postgres@", f"//{role}{':' * bool(password)}{password}@")

    def of(self, process: Process) -> str:
        chosen = self.settings.as_worker() if process is Process.WORKER else self.settings
        return chosen.database_url.get_secret_value()


async def test_an_owner_that_is_no_superuser_creates_the_roles(postgres_server: PostgresServer) -> None:
    managed = Managed(postgres_server, creates_roles=True)
    names = role_names(managed.settings)
    setups = await asyncio.gather(*(create_roles(managed.settings) for _ in range(3)))
    assert sorted(itertools.chain(*(setup.created for setup in setups))) == names
    assert [problem for setup in setups for problem in setup.problems] == []
    await migrate(managed.settings)
    for process in Process:
        async with connected(managed.of(process)) as connection:
            assert await lacking_rights(connection, process) == []
            assert await excess_rights(connection) == []
    assert [(check.ok, check.found) for check in await examine_roles(managed.settings)] == [
        (True, names[0]),
        (True, names[1]),
    ]


async def test_a_process_ends_the_frozen_session_of_the_other_role(postgres_server: PostgresServer) -> None:
    managed = Managed(postgres_server, creates_roles=True)
    await create_roles(managed.settings)
    await migrate(managed.settings)
    async with connected(managed.of(Process.WORKER)) as worker:
        for take, end in (
            (f"SELECT pg_advisory_lock({RECOVERY_LOCK})", f"SELECT end_frozen_recovery({RECOVERY_LOCK}, 0)"),
            ("BEGIN; SELECT FROM installation FOR SHARE", "SELECT end_abandoned_transactions(0)"),
        ):
            frozen = await asyncpg.connect(managed.of(Process.API))
            ended = asyncio.get_running_loop().create_future()
            frozen.add_termination_listener(lambda _, ended=ended: ended.set_result(True))
            try:
                await frozen.execute(take)
                # Its session waits for the next statement a moment after it has answered this one.
                while not (rows := await worker.fetch(end)):
                    await asyncio.sleep(0.01)
                assert [row[0] for row in rows] == [True]
                assert await asyncio.wait_for(ended, 60)
            finally:
                frozen.terminate()


async def test_an_administrator_creates_the_roles_where_the_owner_may_not(postgres_server: PostgresServer) -> None:
    managed = Managed(postgres_server, creates_roles=False)
    owner = managed.settings.role_prefix
    setup = await create_roles(managed.settings)
    assert setup.created == []
    assert [problem.split(",")[0] for problem in setup.problems] == [
        f"there is no role {name}" for name in role_names(managed.settings)
    ]
    # The schema does not depend on the roles.
    assert await migrate(managed.settings) is None
    for statement in roles_sql(managed.settings, owner):
        postgres_server.psql(statement)
    setup = await create_roles(managed.settings)
    # The administrator also sets the password, which a URL names here.
    assert [problem.split(":")[0] for problem in setup.problems] == [
        f"this role may not set the password of {owner}_api"
    ]
    await migrate(managed.settings)
    assert all(check.ok for check in await examine_roles(managed.settings))


async def test_a_role_without_its_grants_is_reported(postgres_server: PostgresServer) -> None:
    managed = Managed(postgres_server, creates_roles=True)
    await migrate(managed.settings)
    await create_roles(managed.settings)
    found = await examine_roles(managed.settings)
    assert not any(check.ok for check in found)
    assert all("SELECT on redemptions" in check.found and "issuer migrate" in check.advice for check in found)


async def test_the_password_of_the_url_is_stored_as_postgres_stores_it(postgres_server: PostgresServer) -> None:
    managed = Managed(postgres_server, creates_roles=True)
    await create_roles(managed.settings)
    name = role_names(managed.settings)[0]
    assert postgres_server.psql("SHOW password_encryption") == "scram-sha-256"
    stored = f"SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'"
    ours = postgres_server.psql(stored)
    postgres_server.psql(f"ALTER ROLE {name} PASSWORD 'secret'")
    theirs = postgres_server.psql(stored)
    for verifier in (ours, theirs):
        assert scram_verifier("secret", _salt(verifier)) == verifier


def _salt(verifier: str) -> bytes:
    import base64

    return base64.b64decode(verifier.split("$")[1].split(":")[1])


async def test_one_url_works_and_is_reported(settings: Settings) -> None:
    (check,) = await examine_roles(settings)
    assert not check.ok
    assert "is a superuser" in check.found
    assert "ISSUER_OWNER_DATABASE_URL" in check.advice
    assert await _logged(settings, Process.API) == ["the Postgres role has more rights than this process needs"]
    assert await _logged(settings_as(settings, Process.API), Process.API) == []
    assert await _logged(settings_as(settings, Process.API), Process.WORKER) == ["the Postgres role lacks rights"]


async def _logged(settings: Settings, process: Process) -> list[Any]:
    postgres = await connect_pool(settings, size=1)
    try:
        with capture_logs() as logs:
            await log_rights(postgres, process)
    finally:
        await close_pool(postgres)
    return [line["event"].split(";")[0] for line in logs]

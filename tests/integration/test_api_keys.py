"""API keys: shown once, revoked within moments, valid while Postgres is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from pydantic import SecretStr

from issuer.access.api_keys import (
    ApiKeyNotFoundError,
    InvalidApiKeyError,
    KeyRing,
    Scope,
    create_key,
    digest,
    list_keys,
    revoke_key,
)
from issuer.access.audit import list_entries
from issuer.settings import Settings
from issuer.storage.postgres import Pool, close_pool, connect_pool
from tests.support.api import problem, running_app
from tests.support.databases import migrate_with_roles
from tests.support.recovery import until
from tests.support.servers import PostgresServer


@asynccontextmanager
async def pool_of(settings: Settings) -> AsyncIterator[Pool]:
    pool = await connect_pool(settings, size=3)
    try:
        yield pool
    finally:
        await close_pool(pool)


@asynccontextmanager
async def ring_of(settings: Settings) -> AsyncIterator[KeyRing]:
    async with pool_of(settings) as pool:
        ring = KeyRing(pool)
        await ring.start()
        try:
            yield ring
        finally:
            await ring.aclose()


async def test_a_key_is_found_by_its_secret_and_stored_as_a_hash(settings: Settings) -> None:
    client = uuid4()
    async with pool_of(settings) as postgres:
        key, secret = await create_key(
            postgres, name="till 7", scopes=["redeem", "admin"], client_id=client, actor="cli:ann"
        )
        assert secret.startswith("isk_")
        assert (key.name, key.scopes, key.client_id) == ("till 7", frozenset([Scope.REDEEM, Scope.ADMIN]), client)
        async with ring_of(settings) as ring:
            assert ring.find(secret) == ring.find(secret.encode()) == ring.find(secret) == key
            for wrong in ("", "isk_", secret[:-1], secret + "x", secret.lower(), "clé", b"\xff" * 40, "x" * 100_000):
                assert ring.find(wrong) is None
        assert (await list_keys(postgres)).items == [key]
        rows = await postgres.fetch(
            "SELECT api_keys::text AS row FROM api_keys UNION ALL SELECT audit_log::text FROM audit_log"
        )
        assert not any(secret in row["row"] for row in rows)
        assert await postgres.fetchval("SELECT secret_sha256 FROM api_keys") == digest(secret.encode())
        (entry,) = (await list_entries(postgres)).items
        assert (entry.actor, entry.action, entry.subject) == ("cli:ann", "key.create", f"key:{key.id}")


@pytest.mark.parametrize(
    ("name", "scopes"),
    [
        ("", ["admin"]),
        ("x" * 256, ["admin"]),
        ("a\0", ["admin"]),
        ("x", []),
        ("x", ["root"]),
        ("x", ["public", "admin"]),
        ("x", ["public", "redeem"]),
        ("x", ["public"]),
    ],
)
async def test_invalid_parameters_of_a_key_are_refused(settings: Settings, name: str, scopes: list[str]) -> None:
    async with pool_of(settings) as postgres:
        with pytest.raises(InvalidApiKeyError):
            await create_key(postgres, name=name, scopes=scopes, actor="test")
        assert (await list_keys(postgres)).items == []


async def test_every_process_learns_of_new_and_revoked_keys(settings: Settings) -> None:
    async with ring_of(settings) as one, ring_of(settings) as two, pool_of(settings) as postgres:
        key, secret = await create_key(postgres, name="x", scopes=["redeem"], actor="test")
        for ring in (one, two):
            await until(lambda ring=ring: ring.find(secret) == key)  # type: ignore[misc]
        revoked = await revoke_key(postgres, key.id, actor="test")
        assert revoked.revoked_at is not None
        for ring in (one, two):
            await until(lambda ring=ring: ring.find(secret) is None)  # type: ignore[misc]
        assert await revoke_key(postgres, key.id, actor="test") == revoked
        with pytest.raises(ApiKeyNotFoundError):
            await revoke_key(postgres, key.id + 1, actor="test")
        actions = [entry.action for entry in (await list_entries(postgres)).items]
        assert actions == ["key.revoke", "key.create"]


async def test_a_key_that_cannot_be_read_is_refused_and_no_other(settings: Settings) -> None:
    async with ring_of(settings) as ring, pool_of(settings) as pool:
        await pool.execute(
            "INSERT INTO api_keys (name, secret_sha256, scopes, rate_limit) VALUES ('bad', $1, '{redeem}', 'nonsense')",
            digest(b"bad"),
        )
        _, secret = await create_key(pool, name="good", scopes=["redeem"], actor="test")
        await until(lambda: ring.find(secret) is not None)
        assert ring.find("bad") is None


async def test_a_revocation_takes_effect_without_a_notification(settings: Settings) -> None:
    async with ring_of(settings) as ring, pool_of(settings) as postgres:
        _, secret = await create_key(postgres, name="x", scopes=["redeem"], actor="test")
        await until(lambda: ring.find(secret) is not None)
        await postgres.execute("UPDATE api_keys SET revoked_at = now()")
        await until(lambda: ring.find(secret) is None)


async def test_the_ring_survives_the_loss_of_its_connection(settings: Settings) -> None:
    async with ring_of(settings) as ring, pool_of(settings) as postgres:
        _, first = await create_key(postgres, name="x", scopes=["redeem"], actor="test")
        await until(lambda: ring.find(first) is not None)
        await postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        key, second = await create_key(postgres, name="y", scopes=["redeem"], actor="test")
        await until(lambda: ring.find(second) == key)
        assert ring.find(first) is not None


@pytest.mark.long
async def test_keys_stay_valid_while_postgres_is_unavailable(settings: Settings, own_postgres: PostgresServer) -> None:
    own = settings.model_copy(update={"database_url": SecretStr(own_postgres.url())})
    await migrate_with_roles(own)
    async with pool_of(own) as postgres:
        key, secret = await create_key(postgres, name="x", scopes=["redeem"], actor="test")
    async with ring_of(own) as ring:
        assert ring.loaded
        own_postgres.kill9()
        async with ring_of(own) as late:
            assert (late.loaded, late.find(secret)) == (False, None)
            assert ring.find(secret) == key
            own_postgres.start()
            await until(lambda: late.find(secret) == key)
        async with pool_of(own) as postgres:
            await revoke_key(postgres, key.id, actor="test")
        await until(lambda: ring.find(secret) is None)


@pytest.mark.long
async def test_requests_with_a_loaded_key_succeed_while_postgres_is_unavailable(
    settings: Settings, own_postgres: PostgresServer
) -> None:
    own = settings.model_copy(update={"database_url": SecretStr(own_postgres.url())})
    await migrate_with_roles(own)
    async with running_app(own) as api:
        key, secret = await create_key(api.owner, name="x", scopes=["redeem"], actor="test")
        await until(lambda: api.services.keys.find(secret) == key)
        headers = {"Authorization": f"Bearer {secret}"}
        batch, client = await api.batch("A-1", "A-2", "A-3")
        assert (await api.redeem(batch, client, **headers)).json() == {"code": "A-1"}
        own_postgres.kill9()
        assert (await api.redeem(batch, client, **headers)).json() == {"code": "A-2"}
        problem(await api.redeem(batch, client, Authorization="Bearer isk_unknown"), 401)
        own_postgres.start()
        async with pool_of(own) as postgres:
            await revoke_key(postgres, key.id, actor="test")
        async with asyncio.timeout(30):
            while (await api.redeem(uuid4(), client, **headers)).status_code != 401:
                await asyncio.sleep(0.01)
        assert (await api.redeem(batch, client)).json() == {"code": "A-3"}

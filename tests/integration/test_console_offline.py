"""The console while Postgres is unavailable: what stays readable, for whom, and that nothing can be changed."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

import pytest

from issuer.http.console import offline_pass
from issuer.http.console.console_visit import HOME
from issuer.http.console.offline_pass import COOKIE, read_pass, sign_pass
from issuer.http.console.principal import Principal
from issuer.operators.role import Role
from issuer.settings import Settings
from issuer.storage.migrate import migrate
from issuer.storage.roles import create_roles
from tests.support.api import running_app, until_status
from tests.support.console import console_screen
from tests.support.databases import settings_for
from tests.support.servers import PostgresServer, RedisServer

READABLE: Final = ("/now", "/incidents")
CLOSED: Final = ("/keys", "/operators", "/audit", "/account", "/batches")


@pytest.fixture
def settings(own_postgres: PostgresServer, own_redis: RedisServer, settings: Settings) -> Settings:
    urls = settings_for(own_redis.url(), own_postgres.url(), settings.data_dir)
    return settings.model_copy(update={"redis_url": urls.redis_url, "database_url": urls.database_url})


async def test_a_session_reads_what_happens_without_postgres(
    settings: Settings, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_roles(settings)
    await migrate(settings)
    async with (
        running_app(settings) as api,
        console_screen(api, api.admin) as screen,
        console_screen(api) as other,
    ):
        for path in READABLE:
            await screen.open(path)
            assert screen.status == 200, path
        passed = screen.http.cookies[COOKIE]
        own_postgres.stop()
        await until_status(api, "/healthcheck", 500)
        for path in READABLE:
            await screen.open(path)
            assert screen.status == 200, path
            await other.open(path)
            assert other.status == 503, path
        for path in CLOSED:
            await screen.open(path)
            assert screen.status == 503, path
        await screen.send("/incidents/1/accept")
        assert screen.status == 503
        # A pass of another session, or with another role, is none.
        other.http.cookies.set(COOKIE, passed)
        await other.open("/now")
        assert other.status == 503
        other.http.cookies.set("console", "A" * 43)
        await other.open("/now")
        assert other.status == 503
        screen.http.cookies.set(COOKIE, "x" + passed)
        await screen.open("/now")
        assert screen.status == 503
        screen.http.cookies.set(COOKIE, passed)
        token, principal = screen.http.cookies["console"], Principal("Ada", "operator:1:Ada", Role.VIEWER, uuid4(), "A")
        monkeypatch.setattr(offline_pass, "LIFETIME_S", -1)
        screen.http.cookies.set(COOKIE, sign_pass(api.services, token, principal))
        await screen.open("/now")
        assert screen.status == 503
        monkeypatch.undo()
        screen.http.cookies.set(COOKIE, passed)
        await screen.open("/now")
        assert screen.status == 200
        # The key is revoked as far as this process knows: its pass admits no longer.
        monkeypatch.setattr(api.services.keys, "_by_id", {})
        assert (await screen.http.get(HOME + "/now")).status_code == 503
        given = sign_pass(api.services, "token", principal)
        assert read_pass(api.services, "token", given) == principal
        assert read_pass(api.services, "other", given) is None

"""Passwords of servers with hostile characters: they work when they are percent-encoded, and no output shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from pydantic import SecretStr

from issuer.settings import Settings
from loadtest.processes import free_port
from tests.support.command import Command
from tests.support.forked_processes import Done
from tests.support.servers import PostgresServer, RedisServer, wait_until

PASSWORD = "s3cr/et?#[x]@h:1%41%\\'\"é $ret"
PARTS = ("s3cr", "$ret", quote("$ret"), "%41", "%2541")
"""Parts of it, as it is and percent-encoded, that occur nowhere else."""


@dataclass(frozen=True, slots=True)
class GuardedServers:
    """A Valkey and a role of PostgreSQL that require the password."""

    redis: RedisServer
    postgres: PostgresServer
    role: str

    def settings(self, directory: Path, password: str, *, redis_port: int = 0, postgres_port: int = 0) -> Settings:
        encoded = quote(password, safe="")
        redis = f"redis://default:{encoded}@127.0.0.1:{redis_port or self.redis.port}/0"
        postgres = f"postgresql://{self.role}:{encoded}@127.0.0.1:{postgres_port or self.postgres.port}/{self.role}"
        return Settings(
            redis_url=SecretStr(redis), database_url=SecretStr(postgres), partitions=4, data_dir=directory / ".issuer"
        )


@pytest.fixture
def servers(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[GuardedServers]:
    role = f"guarded_{uuid4().hex[:12]}"
    access = postgres_server.data / "pg_hba.conf"
    before = access.read_text()
    literal = PASSWORD.replace("'", "''")
    postgres_server.psql(f"CREATE ROLE {role} LOGIN PASSWORD '{literal}'")
    postgres_server.psql(f"CREATE DATABASE {role} OWNER {role}")
    access.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{before}")
    postgres_server.psql("SELECT pg_reload_conf()")
    try:
        wait_until(
            lambda: role in postgres_server.psql("SELECT user_name::text FROM pg_hba_file_rules"), "rule is read"
        )
        with RedisServer(tmp_path / "redis") as redis:
            with redis.client() as client:
                client.config_set("requirepass", PASSWORD)
            yield GuardedServers(redis, postgres_server, role)
    finally:
        access.write_text(before)
        postgres_server.psql(f"DROP DATABASE {role} WITH (FORCE)")
        postgres_server.psql(f"DROP ROLE {role}")
        postgres_server.psql("SELECT pg_reload_conf()")


def run(settings: Settings, directory: Path, *words: str) -> Done:
    done = asyncio.run(Command(settings, directory)(*words))
    for part in PARTS:
        assert part not in done.out + done.err
    assert "Traceback" not in done.err
    return done


@pytest.mark.long
def test_an_encoded_password_opens_both_servers(servers: GuardedServers, tmp_path: Path) -> None:
    settings = servers.settings(tmp_path, PASSWORD)
    assert run(settings, tmp_path, "migrate").status == 0
    done = run(settings, tmp_path, "batches", "list", "--json")
    assert done.json == []


@pytest.mark.long
def test_no_failure_shows_the_password(servers: GuardedServers, tmp_path: Path) -> None:
    good = servers.settings(tmp_path, PASSWORD)
    assert run(good, tmp_path, "migrate").status == 0
    wrong = servers.settings(tmp_path, PASSWORD + "x")
    nowhere = free_port()
    for settings, named in (
        (wrong, "password authentication failed"),
        (servers.settings(tmp_path, PASSWORD, postgres_port=nowhere), "Postgres is unavailable"),
        (servers.settings(tmp_path, PASSWORD, redis_port=nowhere), "Redis is unavailable"),
        (good.model_copy(update={"redis_url": wrong.redis_url}), "Redis is unavailable"),
    ):
        for words in (("batches", "list"), ("doctor",)):
            done = run(settings, tmp_path, *words)
            assert done.status == 1
        done = run(settings, tmp_path, "batches", "list")
        assert named in done.err
    assert run(wrong, tmp_path, "migrate").status == 1


@pytest.mark.parametrize("variable", ["ISSUER_REDIS_URL", "ISSUER_DATABASE_URL"])
def test_a_password_that_is_not_encoded_is_refused(settings: Settings, tmp_path: Path, variable: str) -> None:
    command = Command(settings, tmp_path)
    scheme = "redis" if variable == "ISSUER_REDIS_URL" else "postgresql"
    command.environment[variable] = f"{scheme}://user:{PASSWORD}@127.0.0.1:1/0"
    done = asyncio.run(command("batches", "list"))
    assert done.status == 2
    assert f"error: {variable}: cannot be read" in done.err
    assert not any(part in done.out + done.err for part in PARTS)

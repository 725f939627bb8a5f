"""TLS to Redis and to Postgres, with a self-signed certificate that only the URL trusts."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from pydantic import SecretStr

from issuer.recovery.doctor import Check, examine
from issuer.settings import Settings
from issuer.storage.migrate import SCHEMA_REVISION, migrate
from issuer.storage.postgres import (
    PostgresUnavailableError,
    close_pool,
    connect_pool,
    own_connection,
    unavailable_translated,
)
from loadtest.processes import free_port
from tests.support.api import running_app
from tests.support.programs import require
from tests.support.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.long

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass(frozen=True, slots=True)
class Certificate:
    file: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.file, self.key)
        return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate for `localhost`."""
    openssl = require("openssl")
    directory = tmp_path_factory.mktemp("certificate")
    made = Certificate(directory / "server.crt", directory / "server.key")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-out", made.file, "-keyout", made.key],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


class TlsRedisServer(RedisServer):
    """A Redis server that accepts TLS only."""

    def __init__(self, directory: Path, certificate: Certificate) -> None:
        # The bundled Valkey is built without TLS.
        super().__init__(directory, program=require("redis-server"))
        self._certificate = certificate

    def command(self) -> list[str]:
        self.options = {
            "port": "0",
            "tls-port": str(self.port),
            "tls-cert-file": str(self._certificate.file),
            "tls-key-file": str(self._certificate.key),
            "tls-auth-clients": "no",
        }
        return super().command()

    def url(self, database: int = 0) -> str:
        return f"rediss://localhost:{self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        trusted = str(self._certificate.file)
        return redis.Redis(host="localhost", port=self.port, db=database, protocol=2, ssl=True, ssl_ca_certs=trusted)


@pytest.fixture
def tls_redis(tmp_path: Path, certificate: Certificate) -> Iterator[TlsRedisServer]:
    with TlsRedisServer(tmp_path / "redis", certificate) as server:
        yield server


async def doctor(settings: Settings) -> dict[str, Check]:
    postgres = await connect_pool(settings, size=2)
    try:
        return {check.name: check for check in await examine(settings, postgres)}
    finally:
        await close_pool(postgres)


def with_redis(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"redis_url": SecretStr(url)})


async def test_codes_over_rediss(settings: Settings, tls_redis: TlsRedisServer, certificate: Certificate) -> None:
    trusting = with_redis(settings, f"{tls_redis.url()}?ssl_ca_certs={certificate.file}")
    async with running_app(trusting) as api:
        batch, client = await api.batch("A-1")
        assert (await api.redeem(batch, client)).json() == {"code": "A-1"}
        found = await doctor(trusting)
        assert found["redis version"].ok
        assert found["blessing"].ok


@pytest.mark.parametrize(
    ("host", "trust", "reason"),
    [("localhost", False, "CERTIFICATE_VERIFY_FAILED"), ("127.0.0.1", True, "IP address mismatch")],
    ids=["an untrusted certificate", "another host's certificate"],
)
async def test_doctor_reports_the_problem_with_the_certificate_of_redis(
    settings: Settings, tls_redis: TlsRedisServer, certificate: Certificate, host: str, trust: bool, reason: str
) -> None:
    url = tls_redis.url().replace("localhost", host)
    found = await doctor(with_redis(settings, f"{url}?ssl_ca_certs={certificate.file}" if trust else url))
    assert not found["redis"].ok
    assert reason in found["redis"].found


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def tls_front(server: PostgresServer, certificate: Certificate) -> AsyncIterator[int]:
    """A port that accepts Postgres over TLS only. The bundled Postgres is built without TLS."""
    context = certificate.server_context()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.readexactly(8) != SSL_REQUEST:
                return
            writer.write(b"S")
            await writer.start_tls(context)
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(_pour(reader, inner_writer), _pour(inner_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    port = free_port()
    front = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield port
    finally:
        front.close()


def with_postgres(settings: Settings, port: int, query: str, host: str = "localhost") -> Settings:
    database = urlsplit(settings.database_url.get_secret_value()).path
    return settings.model_copy(
        update={"database_url": SecretStr(f"postgresql://postgres@{host}:{port}{database}?{query}")}
    )


async def reach(settings: Settings) -> None:
    """Connect in each of the ways that the code uses."""
    assert await migrate(settings) == SCHEMA_REVISION
    async with unavailable_translated(), own_connection(settings) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    postgres = await connect_pool(settings, size=2)
    try:
        assert await postgres.fetchval("SELECT 1") == 1
    finally:
        await close_pool(postgres)


async def test_postgres_over_tls(settings: Settings, postgres_server: PostgresServer, certificate: Certificate) -> None:
    async with tls_front(postgres_server, certificate) as port:
        full = with_postgres(settings, port, f"sslmode=verify-full&sslrootcert={certificate.file}")
        await reach(full)
        await reach(with_postgres(settings, port, "sslmode=require"))
        async with running_app(full) as api:
            batch, client = await api.batch("A-1")
            assert (await api.redeem(batch, client)).json() == {"code": "A-1"}


async def test_postgres_that_cannot_be_verified_is_refused(
    settings: Settings, postgres_server: PostgresServer, certificate: Certificate
) -> None:
    async with tls_front(postgres_server, certificate) as port:
        for query, host in (
            ("sslmode=verify-full&sslrootcert=" + str(certificate.file), "127.0.0.1"),
            ("sslmode=disable", "localhost"),
        ):
            unverified = with_postgres(settings, port, query, host)
            with pytest.raises(PostgresUnavailableError):
                await migrate(unverified)
            assert not (await doctor(unverified))["postgres"].ok
    # A server without TLS is not taken where TLS is asked for.
    plain = with_postgres(settings, postgres_server.port, "sslmode=require", "127.0.0.1")
    with pytest.raises(PostgresUnavailableError):
        await migrate(plain)

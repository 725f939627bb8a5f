"""Two installations with the same data, one of which has the fast path."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from issuer.http.app import IssuerApp, create_app
from issuer.http.edge.exchange import Connection, Exchange, FastPath
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.edge.limits import EdgeLimits
from issuer.http.edge.protocol import guarded_protocol
from issuer.http.wire import EVERY_ANSWER
from issuer.settings import Auth, Settings
from issuer.storage.grants import Process
from tests.differential.preloaded import DAILY, Preloaded
from tests.support.edge_server import EdgeServer
from tests.support.environment import settings_as
from tests.support.issuing import plain_client
from tests.support.servers import PostgresServer, wait_until
from tests.support.worker_process import record_everything

_copies: Final = itertools.count(1)

LISTENERS: Final[Mapping[str, dict[str, Any]]] = {
    "keys": {"failed_lookup_limit": "off", "cors_origins": "https://example.org"},
    "anonymous": {"failed_lookup_limit": "off", "auth": Auth.OFF},
    "limited": {"failed_lookup_limit": DAILY, "rate_limit_ip": DAILY},
}
"""The API servers of an installation, by name, with the settings in which they differ."""

FastPaths = Mapping[bytes, FastPath]
Make = Callable[[Connection, HeaderFields], Exchange | None]
Plant = Callable[[FastPaths], FastPaths]
"""Changes the fast path of one installation, so that the test must find a difference."""


@dataclass(slots=True)
class InstallationCopy:
    """Running API servers over databases of their own. `taken` counts the requests that took the fast path."""

    name: str
    settings: Settings
    ports: dict[str, int] = field(default_factory=dict)
    taken: int = 0

    @contextmanager
    def serving(self, plant: Plant | None) -> Iterator[None]:
        """Serve on all listeners, with the fast path as `plant` changes it, or without any."""
        with ExitStack() as stack:
            for listener, changes in LISTENERS.items():
                settings = self.settings.model_copy(update=changes)
                app = create_app(settings_as(settings, Process.API))
                paths = {} if plant is None else self._counted(plant(app.fast_paths))
                server = stack.enter_context(_serve(app, settings, paths))
                self.ports[listener] = server.port
            for port in self.ports.values():
                wait_until(lambda port=port: _is_ready(port), "the API is ready")  # type: ignore[misc]
            yield

    def _counted(self, paths: FastPaths) -> FastPaths:
        def counted(make: Make) -> Make:
            def made(connection: Connection, fields: HeaderFields) -> Exchange | None:
                exchange = make(connection, fields)
                self.taken += exchange is not None
                return exchange

            return made

        return {path: replace(way, make=counted(way.make)) for path, way in paths.items()}

    def drain(self, directory: Path) -> None:
        """Let a worker record all facts."""
        record_everything(self.settings, directory / self.name)


def copy_of(preloaded: Preloaded, postgres: PostgresServer, redis_url: str, name: str) -> InstallationCopy:
    """A copy of the preloaded databases. Redis' copy is of the same server, so it is blessed as well."""
    source_url = preloaded.settings.database_url.get_secret_value()
    database = f"copy_{next(_copies)}_{name}"
    postgres.psql(f"CREATE DATABASE {database} TEMPLATE {source_url.rpartition('/')[2]} STRATEGY FILE_COPY")
    postgres.psql("UPDATE installation SET database = NULL", database)
    number = int(urlsplit(redis_url).path.strip("/"))
    with plain_client(preloaded.settings.redis_url.get_secret_value()) as redis:
        for key in redis.scan_iter(count=1_000):
            assert redis.copy(key, key, destination_db=str(number))
    settings = preloaded.settings.model_copy(
        update={
            "database_url": SecretStr(postgres.url(database)),
            "redis_url": SecretStr(redis_url),
            # Another database does not know what the journals of this one remember.
            "journal_dir": preloaded.settings.data_dir / database,
        }
    )
    return InstallationCopy(name, settings)


def drop(installation: InstallationCopy, postgres: PostgresServer) -> None:
    """Remove the databases of an installation that is not serving."""
    database = installation.settings.database_url.get_secret_value().rpartition("/")[2]
    postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")
    with plain_client(installation.settings.redis_url.get_secret_value()) as redis:
        redis.flushdb()


@contextmanager
def _serve(app: IssuerApp, settings: Settings, paths: FastPaths) -> Iterator[EdgeServer]:
    """Serve as `issuer.processes.api` does."""
    protocol = guarded_protocol(EdgeLimits.from_settings(settings), paths)
    options: dict[str, Any] = {"server_header": False, "proxy_headers": False, "headers": list(EVERY_ANSWER)}
    with EdgeServer(app, protocol, lifespan="on", **options) as server:
        yield server


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False

"""`issuer up`: two servers, the API and the worker as children of one foreground process, which stops them all."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic import SecretStr

from issuer.embedded.datadir import DataDirectory, RunningInstallation
from issuer.embedded.servers import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey, rotate_log
from issuer.embedded.started import StartedInstallation, log_issued, print_started
from issuer.instants import show_instant
from issuer.processes.api import ListenError, api_spec, listen, shared_metrics, url_of
from issuer.processes.children import Child, ChildError, ChildSpec
from issuer.processes.launch import launch_command
from issuer.settings import Auth, Settings

if TYPE_CHECKING:
    from issuer.storage.stores import Stores

log = structlog.get_logger()

WORKER_STOP_LIMIT_S: Final = 30.0
SERVER_STOP_LIMIT_S: Final = 60.0
PORT_WAIT_S: Final = 15.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """One `issuer up`. A server that ISSUER_REDIS_URL or ISSUER_DATABASE_URL names replaces an embedded one.

    Start: Postgres and Redis together, migration, blessing, demo batch, API, worker. Stop in reverse: the API first, so
    that nothing new is redeemed, then the worker after its current batch, then the servers.
    """

    def __init__(self, settings: Settings, *, demo: bool = False) -> None:
        from issuer.embedded.demo import CLIENT_ID

        if demo and settings.default_client is None:
            settings = settings.model_copy(update={"default_client": str(CLIENT_ID)})
        self._settings = settings
        self._demo = demo
        self._directory = DataDirectory(settings.data_dir)
        self._servers: list[Child] = []
        self._postgres: EmbeddedPostgres | None = None
        self._processes: list[Child] = []
        self._listener: socket.socket | None = None
        self._opened = ExitStack()
        self._metrics: Path | None = None
        self._failed: asyncio.Future[ChildError]

    async def run(self) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP; return with everything stopped.

        Raises DataDirectoryError, ListenError, ChildError and the errors of the stores, also with everything stopped.
        """
        await self._run(self._start)

    async def run_with_servers(self, work: Callable[[Settings], Awaitable[None]]) -> None:
        """Run `work` with the settings of the servers, which run without the service until it is done.

        A signal that ends `run` cancels it. Raises what `run` raises, and the errors of the work.
        """

        async def start() -> None:
            await work(await self._start_servers())

        await self._run(start)

    async def _run(self, start: Callable[[], Awaitable[StartedInstallation | None]]) -> None:
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        stop = asyncio.Event()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)
        self._directory.acquire()
        stopped = asyncio.create_task(stop.wait(), name="stop")
        starting = asyncio.ensure_future(start())
        try:
            if await self._first(starting, stopped) is not starting:
                return
            if (started := starting.result()) is not None:
                print_started(started, self._settings)
                assert self._metrics is not None
                logging = asyncio.create_task(log_issued(self._metrics), name="log-issued")
                try:
                    (await self._first(stopped, logging)).result()
                finally:
                    logging.cancel()
        finally:
            stopped.cancel()
            starting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await starting
            await self._stop()
            self._opened.close()
            self._directory.release()

    async def _first(self, *tasks: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Return the first of the tasks that is done. Raises ChildError when a child fails for good before that."""
        ends: set[asyncio.Future[Any]] = {*tasks, self._failed}
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._failed in done:
            raise self._failed.result()
        return next(task for task in tasks if task in done)

    async def _start(self) -> StartedInstallation:
        self._listener = await self._listen()
        url = url_of(self._listener)
        settings = await self._start_servers()
        from issuer.recovery.opening import open_stores
        from issuer.storage.migrate import migrate
        from issuer.storage.roles import create_roles

        log.info("migrating the database")
        for problem in (await create_roles(settings)).problems:
            log.warning("the Postgres roles are incomplete", problem=problem)
        await migrate(settings)
        async with open_stores(settings.as_owner()) as stores:
            started = await self._prepare(stores, url)
        self._announce(settings, url)
        log.info("starting the API and the worker")
        await self._start_processes(settings, self._listener)
        return started

    def _announce(self, settings: Settings, url: str) -> None:
        self._directory.announce(
            RunningInstallation(
                pid=os.getpid(),
                url=url,
                redis_url=settings.redis_url.get_secret_value(),
                database_url=settings.database_url.get_secret_value(),
                worker_database_url=settings.as_worker().database_url.get_secret_value(),
                owner_database_url=settings.as_owner().database_url.get_secret_value(),
                partitions=settings.partitions,
                pool_high_water=settings.pool_high_water,
                started_at=show_instant(datetime.now(UTC)),
                default_client=settings.default_client,
            )
        )

    async def _listen(self) -> socket.socket:
        # The API of a killed run ends with it, but first answers the requests in flight.
        patience_s = PORT_WAIT_S if self._directory.stopped_uncleanly() else 0.0
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return listen(self._settings.host, self._settings.port)
            except ListenError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)

    async def _start_servers(self) -> Settings:
        found: dict[str, SecretStr] = {}
        servers: list[EmbeddedServer] = []
        if not os.environ.get("ISSUER_DATABASE_URL"):
            self._postgres = EmbeddedPostgres(self._directory, self._settings)
            servers.append(self._postgres)
            found |= self._postgres.urls()
        if not os.environ.get("ISSUER_REDIS_URL"):
            valkey = EmbeddedValkey(self._directory, self._settings)
            servers.append(valkey)
            found["redis_url"] = SecretStr(valkey.url)
        log.info("starting the servers", names=[server.name for server in servers], data=str(self._directory.path))
        self._servers = [Child(self._server_spec(server), self._failed) for server in servers]
        await self._start_all(self._servers)
        return self._settings.model_copy(update=found)

    async def _start_all(self, children: Sequence[Child]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(child.start(), name=f"start {child.spec.name}")
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _server_spec(self, server: EmbeddedServer) -> ChildSpec:
        path = self._directory.logs / f"{server.name}.log"
        rotate_log(path)
        return ChildSpec(
            name=server.name,
            command=server.command,
            prepare=server.prepare,
            is_ready=server.is_ready,
            stop_signal=server.stop_signal,
            stop_limit_s=SERVER_STOP_LIMIT_S,
            log=path,
        )

    async def _prepare(self, stores: Stores, url: str) -> StartedInstallation:
        from issuer.embedded.demo import create_demo, curl_command, find_pool

        api_key = await self._api_key(stores) if self._settings.auth is Auth.ON else None
        if self._demo and not self._directory.demo.exists():
            log.info("creating the demo batch")
            await create_demo(stores)
            self._directory.write_private(self._directory.demo, "created\n")
        pool = await find_pool(stores.postgres)
        key_file = self._directory.api_key.absolute()
        curl = None if pool is None else curl_command(url, pool, None if api_key is None else key_file)
        return StartedInstallation(url, api_key, key_file, curl, await self._console_link(stores, url))

    async def _console_link(self, stores: Stores, url: str) -> str | None:
        """Return a link that signs in to the console. A terminal shows it to a person; a pipe may end in a log."""
        from issuer.operators.links import create_link

        if not self._settings.has_console or not sys.stdout.isatty():
            return None
        return url + await create_link(stores.postgres, actor="cli:up")

    def _secret_key(self) -> SecretStr:
        """Return ISSUER_SECRET_KEY, or this installation's own, which is created once and stored in a file."""
        from issuer.access.secrets import new_key

        if self._settings.secret_key is not None:
            return self._settings.secret_key
        path = self._directory.secret_key
        if not path.exists():
            self._directory.write_private(path, new_key() + "\n")
        return SecretStr(path.read_text().strip())

    async def _api_key(self, stores: Stores) -> str:
        """Return this installation's own key. It is created once and stored in the data directory."""
        from issuer.access.api_keys import create_key

        path = self._directory.api_key
        if path.exists():
            return path.read_text().strip()
        _, secret = await create_key(stores.postgres, name="issuer up", scopes=["redeem", "admin"], actor="cli:up")
        self._directory.write_private(path, secret + "\n")
        return secret

    async def _start_processes(self, settings: Settings, listener: socket.socket) -> None:
        environment = {
            "ISSUER_REDIS_URL": settings.redis_url.get_secret_value(),
            "ISSUER_DATABASE_URL": settings.database_url.get_secret_value(),
            "ISSUER_SECRET_KEY": self._secret_key().get_secret_value(),
            # An inherited URL of the owner would give the processes its rights.
            "ISSUER_WORKER_DATABASE_URL": "",
            "ISSUER_OWNER_DATABASE_URL": "",
            "ISSUER_AUTH": settings.auth.value,
            "ISSUER_DATA_DIR": str(self._directory.path),
            "ISSUER_WORKERS": str(settings.workers),
            "ISSUER_DEFAULT_CLIENT": settings.default_client or "",
            **self._opened.enter_context(shared_metrics(settings)),
        }
        self._metrics = Path(environment["ISSUER_METRICS_DIR"])
        worker = ChildSpec(
            name="sync_worker",
            command=lambda: launch_command([sys.executable, "-m", "sync_worker"], death_signal=signal.SIGTERM),
            stop_limit_s=WORKER_STOP_LIMIT_S,
            environment=environment | {"ISSUER_DATABASE_URL": settings.as_worker().database_url.get_secret_value()},
            is_excused=lambda pid: _crashed_at_a_row(settings, pid),
        )
        apis = [api_spec(settings, listener, number, environment) for number in range(1, settings.workers + 1)]
        self._processes = [Child(spec, self._failed) for spec in (*apis, worker)]
        await self._start_all(self._processes)

    async def _stop(self) -> None:
        if self._servers:
            log.info("stopping")
        apis = [child for child in self._processes if child.spec.name != "sync_worker"]
        workers = [child for child in self._processes if child not in apis]
        for children in (apis, workers, self._servers):
            await asyncio.gather(*(child.stop() for child in children))
        if self._listener is not None:
            self._listener.close()
            self._directory.withdraw()
        if self._servers:
            log.info("stopped")


async def _crashed_at_a_row(settings: Settings, pid: int) -> bool:
    """Return whether the worker crashed while it processed a row, which the next worker skips for a growing time."""
    from issuer.storage.postgres import PostgresUnavailableError
    from issuer.storage.task_rows import crashed_at_a_row

    try:
        return await crashed_at_a_row(settings, pid)
    except PostgresUnavailableError:
        return False

"""The installation of a scenario: Redis, Postgres, API processes and workers, each a real process."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.storage.grants import Process
from tests.faults.processes import FaultApiProcess, FaultWorkerProcess
from tests.faults.proxy import Proxy
from tests.faults.traffic import PARTITIONS as PARTITIONS
from tests.faults.traffic import Traffic, TrafficBatch
from tests.faults.traffic_coupon import make_traffic_coupon
from tests.faults.world_database import WorldDatabase
from tests.support.environment import clean_environment, url_as
from tests.support.forked_processes import StartedProcess, complete_command, start_program
from tests.support.server_clock import ServerClock
from tests.support.servers import PostgresServer, RedisServer, wait_until

MAX_BACKLOG: Final = 2_000
CODES: Final = 20_000
CODES_PER_ROUND: Final = 2 * MAX_BACKLOG + 4_000
"""Codes that a round may need: two losses that each quarantine a whole backlog, and some seconds of traffic."""


class FaultWorld(WorldDatabase):
    """The servers, processes and traffic of one scenario. A context manager: all of them are stopped on exit.

    `hosts`: on how many hosts the API processes run, each with receipt journals of its own; worker and commands run on
    the first. 0: there are no journals. `clock`: the clock of Redis can be stepped.

    `environment`: settings of all processes. `through`: the routes with a proxy (`proxies`): "api-redis",
    "worker-redis", "api-postgres", "worker-postgres", or "redis" for the connections of all processes to Redis.
    """

    def __init__(
        self, directory: Path, postgres: PostgresServer, database_url: str, *, seed: str, hosts: int = 1,
        apis: int = 2, workers: int = 1, clock: bool = False, rounds: int = 1,
        redis_options: dict[str, str] | None = None,
        environment: dict[str, str] | None = None, clients: int = 24, through: Sequence[str] = (),
        coupon_uses: int | None = None, only_coupon: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(directory, postgres, database_url)
        self.seed = seed
        self.redis = RedisServer(directory / "redis", options=redis_options)
        self.redis_options = redis_options
        self._hosts = hosts
        self.clock = ServerClock(directory) if clock else None
        self.environment = {
            "ISSUER_AUTH": "off",
            "ISSUER_DATA_DIR": "{directory}",
            "ISSUER_PARTITIONS": str(PARTITIONS),
            "ISSUER_MAX_BACKLOG": str(MAX_BACKLOG),
            "ISSUER_LOG_LEVEL": "info",
            "ISSUER_POSTGRES_TIMEOUT_S": "3",
            "ISSUER_POOL_HIGH_WATER": "6000",
        } | (environment or {})
        self.faults: Counter[str] = Counter()
        self.recovery_times_s: list[float] = []
        self._api_numbers, self._worker_numbers = itertools.count(), itertools.count()
        self.apis: list[FaultApiProcess] = []
        self.workers: list[FaultWorkerProcess] = []
        self._through = through
        self._only_coupon = only_coupon
        self._sizes = (apis, workers, clients)
        self._codes = CODES + rounds * CODES_PER_ROUND
        self._coupon_uses = coupon_uses or self._codes
        self._proxies: list[Proxy] = []
        self.batches: list[TrafficBatch] = []
        self.traffic: Traffic

    def __enter__(self) -> Self:
        self.thread.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        apis, workers, clients = self._sizes
        if self.clock is not None:
            self.clock.give_to(self.redis)
        self.redis.start()
        for route in self._through:
            self.proxies[route] = self._proxy(self.postgres.port if route.endswith("postgres") else self.redis.port)
        self._make_batches()
        for _ in range(workers):
            self.add_worker()
        for _ in range(apis):
            self.add_api(wait=False)
        for api in self.apis:
            wait_until(api.can_redeem, "the API is ready")
        # `loaded` is stored in Postgres after the codes are in Redis.
        wait_until(lambda: not self.sql("SELECT FROM pools WHERE loaded = 0"), "codes are in Redis")
        self.traffic = Traffic(self.thread, [api.port for api in self.apis], self.batches, self.seed, customers=clients)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):
            self.traffic.stop()
        for server in [*self.workers, *self.apis, *self.others, self.redis]:
            server.__exit__(None, None, None)
        for proxy in self._proxies:
            proxy.close()
        self.thread.__exit__(None, None, None)

    def settings(self, role: str = "", **more: str) -> dict[str, str]:
        """Return the environment of an "api", a "worker" or, by default, a command. `more`: values by setting name."""
        to_redis = self.proxies.get("redis") or self.proxies.get(f"{role}-redis")
        to_postgres = self.proxies.get(f"{role}-postgres")
        postgres_url = self.database_url
        if role in ("api", "worker"):
            postgres_url = url_as(postgres_url, Process(role))
        if to_postgres is not None:
            postgres_url = postgres_url.replace(f":{self.postgres.port}/", f":{to_postgres.port}/")
        urls = {
            "ISSUER_REDIS_URL": self.redis.url() if to_redis is None else f"redis://127.0.0.1:{to_redis.port}/0",
            "ISSUER_DATABASE_URL": postgres_url,
        }
        own = {name: value.replace("{directory}", str(self.directory)) for name, value in self.environment.items()}
        return urls | own | self._host(0) | {f"ISSUER_{name.upper()}": value for name, value in more.items()}

    def _host(self, number: int) -> dict[str, str]:
        """Return the settings by which a process runs on that host."""
        if self._hosts == 0:
            return {"ISSUER_JOURNAL": "off"}
        return {"ISSUER_HOST_NAME": f"host-{number}", "ISSUER_JOURNAL_DIR": str(self.journals(number))}

    def journals(self, host: int) -> Path:
        """Return the directory of the receipt journals of a host."""
        return self.directory / f"journals-{host}"

    def add_api(self, *, wait: bool = True, environment: dict[str, str] | None = None, **more: str) -> FaultApiProcess:
        """Add an API process; on the next host, if there are several. `more`: settings by name."""
        number = next(self._api_numbers)
        host = self._host(number % max(1, self._hosts))
        settings = self.settings("api", **more) | host | (environment or {})
        api = FaultApiProcess(self.directory / f"api-{number}", settings)
        api.start() if wait else api.begin()
        self.apis.append(api)
        return api

    def add_worker(self, **more: str) -> FaultWorkerProcess:
        worker = FaultWorkerProcess(
            self.directory / f"worker-{next(self._worker_numbers)}", self.settings("worker", **more)
        )
        worker.start()
        self.workers.append(worker)
        return worker

    def remove(self, *processes: FaultApiProcess | FaultWorkerProcess) -> None:
        """End processes that were added, for good."""
        for process in processes:
            process.kill9()
        self.apis = [api for api in self.apis if api not in processes]
        self.workers = [worker for worker in self.workers if worker not in processes]

    def freeze_worker(self) -> None:
        """Freeze the worker once every pool has codes in Redis: pools are not topped up while it is frozen."""
        wait_until(self.has_codes, "codes are in Redis")
        self.workers[0].freeze()

    def has_codes(self) -> bool:
        """Return whether every pool has codes in Redis."""
        return min(self._lengths()) > 500

    def has_pools(self) -> bool:
        """Return whether no list of a pool is missing in Redis."""
        return min(self._lengths()) > 0

    def _lengths(self) -> list[int]:
        with self.redis.client() as client:
            return [
                int(client.llen(batch_keys(partition_of(batch.batch_id, PARTITIONS), batch.batch_id).codes(client_id)))
                for batch in self.batches
                if not batch.code
                for client_id in batch.clients
            ]

    def unrecorded_events(self) -> int:
        with self.redis.client() as client:
            return sum(int(client.xlen(partition_keys(p).stream)) for p in range(PARTITIONS))

    def add_redis(self, options: dict[str, str] | None = None) -> RedisServer:
        """Start another server with the same and further options. It is not `redis` until the scenario assigns it."""
        name = f"redis-{len(self.others) + 2}"
        server = RedisServer(self.directory / name, options=(self.redis_options or {}) | (options or {})).start()
        self.others.append(server)
        return server

    def _proxy(self, target: int) -> Proxy:
        proxy = Proxy(self.thread, target)
        self._proxies.append(proxy)
        return proxy

    def run_issuer(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment of this world."""
        return complete_command(words, self._command_environment(**more), self.directory)

    def start_issuer(self, *words: str) -> StartedProcess:
        """Start a command, which prints to a file of this world."""
        with (self.directory / "commands.log").open("ab") as log:
            return start_program("issuer", *words, environment=self._command_environment(), output=log.fileno())

    def _command_environment(self, **more: str) -> dict[str, str]:
        return clean_environment(**self.settings("", **more))

    def fault(self, kind: str) -> float:
        """Count a fault and mark the requests in flight. Call it just before the fault. Return the time."""
        self.faults[kind] += 1
        self.traffic.mark_fault()
        return time.monotonic()

    def await_code(self, since: float, limit_s: float = 30.0) -> float:
        """Wait for the first code issued to a request sent after `since`. Return the seconds that this took."""
        wait_until(lambda: self.traffic.seconds_to_code(since) is not None, "a code is issued after the fault", limit_s)
        seconds = self.traffic.seconds_to_code(since)
        assert seconds is not None
        return seconds

    def _make_batches(self) -> None:
        """Create a coupon and three batches: without limits, with sliding limits, with an indefinite limit."""
        number = int.from_bytes(os.urandom(5))
        coupon = make_traffic_coupon(self, number, self._coupon_uses, limited=not self._only_coupon)
        if self._only_coupon:
            self.batches.append(coupon)
            return
        rules = {
            "open": ("{}", 2, (), 3_000, 4),
            "sliding": ('{"limits": [{"max": 2, "seconds": 1}, {"max": 5, "seconds": 4}]}', 1,
                        ((2, 1_000), (5, 4_000)), 400, 2),
            "lifetime": ('{"maxpercustomer": 3}', 1, ((3, None),), 150, 2),
        }  # fmt: skip
        for at, (name, (text, clients, limits, customers, weight)) in enumerate(rules.items()):
            batch_id = UUID(int=(number << 64) + (at << 48) + 1)
            ids = tuple(UUID(int=(1 << 100) + n) for n in range(clients))
            self.batches.append(TrafficBatch(name, batch_id, ids, limits, customers, weight))
            self.sql(_BATCH, batch_id, name, text, partition_of(batch_id, PARTITIONS))
            for client_id in ids:
                self.sql(_POOL, batch_id, client_id, self._codes)
        self.batches.append(coupon)

    def ports(self) -> list[int]:
        return [api.port for api in self.apis]


_BATCH: Final = "INSERT INTO batches (id, name, rules, partition) VALUES ($1, $2, $3, $4)"
_POOL: Final = """
WITH pool AS (INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3) RETURNING id)
INSERT INTO codes (pool_id, seq, batch_id, client_id, code)
SELECT pool.id, seq, $1, $2, 'C' || pool.id || '-' || seq FROM pool, generate_series(1, $3::bigint) seq"""

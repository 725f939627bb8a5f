"""An installation with a loyalty program, whose members buy rewards and transfer points while parts are killed."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

import httpx

from issuer.contract.keys import partition_keys, partition_of
from issuer.loyalty.account import open_account
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.operations import Adjust
from issuer.loyalty.outcome import Applied
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from issuer.storage.grants import Process
from issuer.storage.postgres import close_pool, connect_pool
from tests.faults.loop_thread import LoopThread
from tests.faults.processes import FaultApiProcess, FaultWorkerProcess
from tests.support.databases import settings_for
from tests.support.environment import url_as
from tests.support.failpoints import MoveFailpoints
from tests.support.servers import PostgresServer, RedisServer, ServerProcess, wait_until

MEMBERS: Final = 12
POINTS: Final = 1_000_000
COST: Final = 7
CODES: Final = 20_000
PARTITIONS: Final = 4
MAX_BACKLOG: Final = 300
"""Also the codes of each pool that the loss of Redis quarantines."""
WIPED: Final = "redis, wiped"
ANSWER_LIMIT_S: Final = 180.0
_MEMBER: Final = "INSERT INTO members (id, client_id, ref) VALUES ($1, $2, $3)"
_BATCH: Final = "INSERT INTO batches (id, name, rules, partition) VALUES ($1, $2, $3, $4)"
_REWARD: Final = "INSERT INTO rewards (id, program_id, name, cost, batch_id) VALUES ($1, $2, $3, $4, $5)"
_AGE: Final = (
    "UPDATE moves SET created_at = created_at - interval '25 hours' WHERE state = 'debited'",
    "UPDATE purchases SET attempt_until = attempt_until - interval '25 hours' WHERE attempt_until IS NOT NULL",
    "UPDATE redemptions SET redeemed_at = redeemed_at - interval '25 hours'",
)
_POOL: Final = """
WITH pool AS (INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3) RETURNING id)
INSERT INTO codes (pool_id, seq, batch_id, client_id, code)
SELECT pool.id, seq, $1, $2, $4 || seq FROM pool, generate_series(1, $3::bigint) seq"""


@dataclass(slots=True)
class Customers:
    """Threads that send purchases and transfers, each with a key of its own, and repeat one until it is answered."""

    url: Callable[[], str]
    program: UUID
    members: list[UUID]
    rewards: list[UUID]
    seed: str
    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    repeats: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, number: int = 6) -> None:
        for n in range(number):
            self._threads.append(threading.Thread(target=self._run, args=(n,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Wait until every request that was begun is answered."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(ANSWER_LIMIT_S)
            assert not thread.is_alive(), "a request was not answered"

    def _run(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        with httpx.Client(timeout=20, trust_env=False) as client:
            while not self._stopping.is_set():
                self._ask(client, rng)

    def _ask(self, client: httpx.Client, rng: random.Random) -> None:
        base = f"/api/v1/loyalty/programs/{self.program}"
        source, target = rng.sample(self.members, 2)
        if rng.random() < 0.7:
            path, body = f"{base}/members/{source}/purchases", {"reward": str(rng.choice(self.rewards))}
        else:
            path = f"{base}/transfers"
            body = {"from": str(source), "to": str(target), "points": rng.randint(1, 50)}  # type: ignore[dict-item]
        key = str(uuid4())
        status, answer = self._repeat(client, path, body, key)
        self.answers[key] = (status, answer)
        # The same key once more: the answer must be the same, whichever process gives it.
        if status == 201 and rng.random() < 0.3:
            again = self._repeat(client, path, body, key)
            if again != (status, answer):
                self.contradictions.append(f"{key}: {answer} and then {again}")

    def _repeat(self, client: httpx.Client, path: str, body: object, key: str) -> tuple[int, dict[str, Any]]:
        limit = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < limit:
            with suppress(httpx.TransportError):
                response = client.post(self.url() + path, json=body, headers={"Idempotency-Key": key})
                if response.status_code < 500 and response.json().get("code") != "idempotency_key_in_use":
                    return response.status_code, response.json()
            self.repeats += 1
            time.sleep(0.05)
        raise TimeoutError(f"{path} was not answered")


class MoveWorld:
    """Servers, one API process with failpoints, a worker, and a program whose members have points. Ends all on exit."""

    def __init__(self, directory: Path, postgres: PostgresServer, database_url: str, *, seed: str) -> None:
        self.directory, self.postgres, self.database_url = directory, postgres, database_url
        self.seed = seed
        self.redis = RedisServer(directory / "redis")
        self.failpoints = MoveFailpoints(directory)
        self.thread = LoopThread()
        self.client_id = uuid4()
        self.kills: Counter[tuple[str, str]] = Counter()
        self.settle_times_s: list[float] = []
        self._exits = ExitStack()
        self.api: FaultApiProcess
        self.worker: FaultWorkerProcess
        self.customers: Customers

    def __enter__(self) -> Self:
        self._exits.enter_context(self.thread)
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _start(self) -> None:
        self._exits.enter_context(self.redis)
        self.settings = settings_for(self.redis.url(), self.database_url, self.directory)
        program, members, rewards = self.thread.run(self._make_program())
        self.worker = self._exits.enter_context(
            FaultWorkerProcess(self.directory / "worker", self._environment(Process.WORKER))
        )
        api = FaultApiProcess(self.directory / "api", self._environment(Process.API) | self.failpoints.environment)
        self.api = self._exits.enter_context(api)
        wait_until(self.api.can_redeem, "the API is ready")
        wait_until(lambda: not self.sql("SELECT FROM pools WHERE loaded = 0"), "codes are in Redis")
        self.program, self.members = program, members
        self.customers = Customers(lambda: f"http://127.0.0.1:{self.api.port}", program.id, members, rewards, self.seed)

    def _environment(self, process: Process) -> dict[str, str]:
        return {
            "ISSUER_AUTH": "off",
            "ISSUER_PARTITIONS": str(PARTITIONS),
            "ISSUER_MAX_BACKLOG": str(MAX_BACKLOG),
            "ISSUER_POSTGRES_TIMEOUT_S": "3",
            "ISSUER_REDIS_URL": self.redis.url(),
            "ISSUER_DATABASE_URL": url_as(self.database_url, process),
        }

    async def _make_program(self) -> tuple[Program, list[UUID], list[UUID]]:
        """Create a program with members that have points, and rewards: one with codes for all, one with a limit."""
        postgres = await connect_pool(self.settings, size=2)
        executor = LoyaltyExecutor(postgres, timeout_s=30)
        try:
            program = await create_program(
                postgres, self.client_id, "Beans", parse_terms({}, "points"), timezone="UTC", actor="test"
            )
            members, rewards = [uuid4() for _ in range(MEMBERS)], []
            for member in members:
                await postgres.execute(_MEMBER, member, self.client_id, f"member {member.hex[:8]}")
                async with postgres.acquire() as connection:
                    account = await open_account(connection, program, member)
                assert isinstance(await executor.execute(account, Adjust(POINTS, "opening balance")), Applied)
            for name, rules in (("open", "{}"), ("limited", '{"maxpercustomer": 3}')):
                batch, reward = uuid4(), uuid4()
                await postgres.execute(_BATCH, batch, name, rules, partition_of(batch, PARTITIONS))
                await postgres.execute(_POOL, batch, self.client_id, CODES, f"{name}-")
                await postgres.execute(_REWARD, reward, program.id, name, COST, batch)
                rewards.append(reward)
            return program, members, rewards
        finally:
            await executor.aclose()
            await close_pool(postgres)

    def command_environment(self) -> dict[str, str]:
        """Return the settings of a command."""
        return self._environment(Process.API) | {"ISSUER_DATABASE_URL": self.database_url}

    def backlog(self) -> int:
        """Return how many redemptions are not in the ledger yet."""
        with self.redis.client() as client:
            return sum(int(client.hget(partition_keys(n).state, "backlog") or 0) for n in range(PARTITIONS))

    def sql(self, query: str, *args: object) -> list[Any]:
        """Return the rows of a query. Postgres must be available."""
        return self.thread.fetch(self.database_url, query, *args)

    def kill_at(self, step: str, victim: str) -> None:
        """Stop the API process at a step, kill the victim, start it again, and wait until every move is settled."""
        self.failpoints.arm(step)
        wait_until(lambda: self.failpoints.is_reached(step), f"a move is at the step {step!r}")
        self._parts[victim].kill9()
        if victim == WIPED:
            self.redis.wipe()
        self.failpoints.pass_on(step)
        self.start_again(victim)
        self.kills[step, victim] += 1
        self.await_settled()

    def settle_a_day_later(self) -> None:
        """Kill the API process behind the issue of a code, and start it when Redis has forgotten its answer."""
        self.failpoints.arm("asked")
        wait_until(lambda: self.failpoints.is_reached("asked"), "a code is issued")
        self.api.kill9()
        self.failpoints.pass_on("asked")
        wait_until(lambda: self.backlog() == 0, "every redemption is in the ledger")
        for statement in _AGE:
            self.sql(statement)
        with self.redis.client() as client:
            for key in client.scan_iter(match="issuer:{p*}:i*", count=1_000):
                client.delete(key)
        self.start_again("api")
        self.await_settled()

    def start_again(self, victim: str) -> None:
        """Start what was killed, and wait until codes can be issued again."""
        if victim == "postgres":
            wait_until(self._start_postgres, "Postgres runs again")
        else:
            self._parts[victim].start()
        wait_until(self.api.can_redeem, "the API is ready")

    @property
    def _parts(self) -> dict[str, ServerProcess]:
        return {
            "api": self.api, "worker": self.worker, "redis": self.redis, WIPED: self.redis, "postgres": self.postgres,
        }  # fmt: skip

    def _start_postgres(self) -> bool:
        # Its old child processes may still be exiting.
        with suppress(RuntimeError):
            self.postgres.start()
            return True
        return False

    def await_settled(self) -> None:
        """Wait until the moves that are debited now are settled, and note how long that took."""
        began = time.monotonic()
        left = [row["id"] for row in self.sql("SELECT id FROM moves WHERE state = 'debited'")]
        for pause_s in itertools.repeat(0.02):
            if not self.sql("SELECT FROM moves WHERE state = 'debited' AND id = ANY($1)", left):
                break
            assert time.monotonic() < began + ANSWER_LIMIT_S, f"{left} are not settled"
            time.sleep(pause_s)
        self.settle_times_s.append(time.monotonic() - began)

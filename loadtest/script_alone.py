"""The redeem script alone: redemptions per second of CPU time that Redis spends.

The calls are built by the redeem engine, so KEYS and ARGV are those of the API. All calls are sent to one partition;
its stream is deleted between measurements, as the acks of the worker would trim it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import redis as blocking
import redis.asyncio as aioredis

from issuer.contract.events import encode_who
from issuer.contract.keys import GROUP, KEY_FORMAT, batch_keys, idempotency_hash, partition_keys
from issuer.contract.scripts import BLESS_PARTITION, LOAD_CODES, OPEN_POOL, PUT_BATCH, REDEEM
from issuer.embedded.binaries import valkey_server
from issuer.engine.calls import Call, PoolRef, Waiting
from issuer.processes.launch import launch_command
from loadtest.processes import LoggedProgram, process_table

EPOCH: Final = 1
PARTITION: Final = 7
BATCH_SIZE: Final = 4_000
CALL_BATCH_SIZE: Final = 200
DEADLINE_IN_MS: Final = 4_500
"""The latest deadline that the script accepts: the calls are built before they are sent."""


@dataclass(frozen=True, slots=True)
class ScriptCost:
    """Redemptions and CPU seconds of Redis for one shape of call."""

    redemptions: int
    cpu_s: float

    @property
    def redemptions_per_cpu_s(self) -> float:
        return self.redemptions / self.cpu_s


class StandaloneRedis:
    """A durable Redis on a unix socket in a temporary directory."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="issuer-bench-")
        self.socket = Path(self._directory.name) / "redis.sock"
        options = {
            "port": "0", "unixsocket": str(self.socket), "dir": self._directory.name, "save": "",
            "appendonly": "yes", "appendfsync": "always", "auto-aof-rewrite-percentage": "0",
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        argv = [str(valkey_server()), *arguments]
        log = Path(self._directory.name) / "redis.log"
        self._server = LoggedProgram(launch_command(argv, death_signal=signal.SIGTERM), log)

    def __enter__(self) -> StandaloneRedis:
        self._server.start(self._answers, "Redis is ready")
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop()
        self._directory.cleanup()

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except blocking.RedisError:
            return False

    def client(self) -> blocking.Redis:
        return blocking.Redis(unix_socket_path=str(self.socket), protocol=2)

    @property
    def cpu_s(self) -> float:
        return process_table()[self._server.pid].cpu_s

    @property
    def program(self) -> str:
        with self.client() as client:
            info: Any = client.info("server")
        return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


def _load(client: blocking.Redis, pool: PoolRef, pool_id: int, codes: int, limits: str) -> None:
    partition = partition_keys(PARTITION)
    client.eval(
        BLESS_PARTITION.text,
        2,
        partition.state,
        partition.stream,
        EPOCH,
        KEY_FORMAT,
        10**9,
        0,
        GROUP,
        "script alone",
        0,
        0,
        "token",
    )
    client.eval(
        PUT_BATCH.text, 2, partition.state, pool.batch.batch, EPOCH, 1, "open", 0, "", "", limits, "", "", "token"
    )
    keys = [partition.state, pool.batch.batch, pool.pool_key, pool.codes_key]
    client.eval(OPEN_POOL.text, len(keys), *keys, EPOCH, pool_id, 0, codes)
    for first in range(1, codes + 1, BATCH_SIZE):
        some = [f"CODE-{pool_id:05d}-{seq:09d}" for seq in range(first, min(first + BATCH_SIZE, codes + 1))]
        client.eval(LOAD_CODES.text, len(keys), *keys, EPOCH, first, codes, 0, *some)


def _pool() -> PoolRef:
    keys, client_id = batch_keys(PARTITION, uuid4()), uuid4()
    return PoolRef(PARTITION, keys, keys.pool(client_id), keys.codes(client_id))


def _waiting(pool: PoolRef, future: asyncio.Future[Any], with_key: bool) -> Waiting:
    customer = UUID(int=random.getrandbits(128)).bytes
    key_hash = idempotency_hash(customer, customer.hex()) if with_key else None
    return Waiting(pool, customer, encode_who(customer, 1, key_hash), key_hash, 0.0, future)


async def _drive(redis: StandaloneRedis, commands: list[list[Any]]) -> float:
    """Send the commands, eight at a time. Return the CPU seconds that Redis spent on them."""
    client = aioredis.Redis(unix_socket_path=str(redis.socket), protocol=2, single_connection_client=True)
    async with client:
        connection = client.connection
        assert connection is not None
        packed = [b"".join(connection.pack_command(*command)) for command in commands]
        before = redis.cpu_s
        for at in range(0, len(packed), 8):
            some = packed[at : at + 8]
            await connection.send_packed_command(b"".join(some), check_health=False)
            for _ in some:
                reply = await connection.read_response()
                if reply[0] != b"DONE" or b"GRANTED" not in reply[1]:
                    raise RuntimeError(f"not granted: {reply!r}")
        return redis.cpu_s - before


def load_pools(redis: StandaloneRedis, count: int, codes: int, limits: str) -> list[PoolRef]:
    """Create `count` pools, each in a batch of its own, with `codes` codes in total."""
    pools = [_pool() for _ in range(count)]
    with redis.client() as client:
        client.script_load(REDEEM.text)
        for number, pool in enumerate(pools, 1):
            _load(client, pool, number, -(-codes // count), limits)
    return pools


async def run_calls(
    redis: StandaloneRedis, pools: list[PoolRef], *, calls: int, redemptions_per_call: int, with_keys: bool
) -> float:
    """Redeem for new customers from the pools in turn. Return the CPU seconds that Redis spent."""
    unused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    cpu_s = 0.0
    # In parts, so that each call is sent long before its deadline.
    for first in range(0, calls, CALL_BATCH_SIZE):
        commands = []
        with redis.client() as client:
            seconds, _ = client.time()
        for _ in range(min(CALL_BATCH_SIZE, calls - first)):
            requests = [_waiting(pools[i % len(pools)], unused, with_keys) for i in range(redemptions_per_call)]
            call = Call(PARTITION, os.urandom(16).hex(), requests)
            call.deadline_ms = int(seconds) * 1000 + DEADLINE_IN_MS
            commands.append(call.command(EPOCH, 0, 0))
        cpu_s += await _drive(redis, commands)
    return cpu_s


async def measure_script(
    redis: StandaloneRedis, *, calls: int = 2_000, redemptions_per_call: int = 64, batches: int = 1,
    limits: str = "1:0", with_keys: bool = False,
) -> ScriptCost:  # fmt: skip
    """Run `calls` calls for new customers; each call contains redemptions of `batches` batches."""
    total = calls * redemptions_per_call
    pools = load_pools(redis, batches, total, limits)
    cpu_s = await run_calls(redis, pools, calls=calls, redemptions_per_call=redemptions_per_call, with_keys=with_keys)
    with redis.client() as client:
        client.delete(partition_keys(PARTITION).stream, partition_keys(PARTITION).state)
    return ScriptCost(total, cpu_s)


SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"limits": ""},
    {"limits": "1:2592000000"},
    {"with_keys": True},
    {"batches": 64},
    {"redemptions_per_call": 4, "calls": 10_000},
    {"redemptions_per_call": 4, "batches": 4, "calls": 10_000},
)


async def main() -> None:
    with StandaloneRedis() as redis:
        print(redis.program)
        for shape in SHAPES:
            rate = (await measure_script(redis, **shape)).redemptions_per_cpu_s
            print(f"{rate:10,.0f} redemptions per CPU s, {1e6 / rate:6.2f} µs each: {shape}")


if __name__ == "__main__":
    asyncio.run(main())

"""The boundary to Redis: fenced connections without blind retries. Driver exceptions are translated here.

Every connection asks the server for its `run_id` once, when it opens, and is closed unless that server is blessed. The
driver's retries are off, so it never sends a command twice. A connection on which a read failed or was cancelled is
closed and not reused: its late reply would be taken for the answer to the next command.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

import redis.asyncio as aioredis
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from issuer.contract.scripts import Script
from issuer.settings import Settings
from issuer.storage.incarnation import Blessed, Incarnations
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.server_watch import ClockReading

Value = str | bytes | int
CONNECT_TIMEOUT_S: Final = 1.0
_DRIVER_INFO: Final = DriverInfo()
"""Built once: to find the version that it names takes the driver a millisecond for each connection."""


class RedisUnavailableError(Exception):
    """Redis cannot be reached or did not answer in time. The command may or may not have taken effect."""


class NotReadyError(RedisUnavailableError):
    """The data set behind the connection is not the blessed one. Nothing was changed."""


class RedisRefusedError(RedisUnavailableError):
    """Redis answered with an error (out of memory, read-only, loading, …). A script has changed nothing then."""


class _FencedError(aioredis.ConnectionError):
    """Raised while a connection opens. The driver closes connections whose opening fails with its own error class."""


class CommandSender(Protocol):
    """A sender of commands: a `Link`, or an object that guards one."""

    async def call(self, commands: Sequence[Sequence[Value]], *, timeout_s: float) -> list[Any]: ...


ScriptCall = tuple[Sequence[str | bytes], Sequence[Value]]
"""The keys of one call of a script, and its arguments without the epoch."""


class ScriptRunner(Protocol):
    """A runner of scripts under an epoch: `Redis`, or the recovery's own runner while partitions are fenced."""

    @property
    def partitions(self) -> int: ...

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> list[Any]: ...

    async def run_all(self, script: Script, calls: Sequence[ScriptCall]) -> list[list[Any]]: ...


def accepted(replies: list[Any]) -> list[Any]:
    """Return the replies of a call. Raises RedisRefusedError if one of them is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise RedisRefusedError(str(reply)) from reply
    return replies


def time_ms(reply: Sequence[Any]) -> int:
    """Return the reply of TIME (seconds and microseconds, as numbers or as bytes) in milliseconds since 1970."""
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000


async def run_id_of(connection: AbstractConnection) -> str:
    """Return the `run_id` of the server at the other end; empty if it reports none."""
    await connection.send_command("INFO", "server", check_health=False)
    info: bytes | str = await connection.read_response()
    text = info if isinstance(info, str) else info.decode()
    # A server without a run_id was never blessed, so the fence refuses it.
    return next((line[7:] for line in text.splitlines() if line.startswith("run_id:")), "")


def _connection_pool(settings: Settings, pool_class: type[Any], **options: Any) -> ConnectionPool:
    url = settings.redis_url.get_secret_value()
    options |= {
        "protocol": 2,  # the driver's guard against unread replies does not work with 3
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "driver_info": _DRIVER_INFO,
    }
    parts = urlsplit(url)
    if parts.scheme != "sentinel":
        return pool_class.from_url(url, **options)  # type: ignore[no-any-return]
    hosts = [(host or "127.0.0.1", int(port or 26379)) for host, _, port in
             (item.rpartition("@")[2].partition(":") for item in parts.netloc.split(","))]  # fmt: skip
    service, _, database = parts.path.strip("/").partition("/")
    sentinel = Sentinel(
        hosts, sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_S, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
    )
    options.pop("timeout", None)
    # As the driver does with other URLs.
    username, password = (None if not text else unquote(text) for text in (parts.username, parts.password))
    options |= {"db": int(database or 0), "password": password, "username": username}
    return SentinelConnectionPool(service or "mymaster", sentinel, **options)


class _CancellableSending(AbstractConnection):
    """A connection that bounds the time of sending without the driver's `wait_for`.

    In Python 3.11 `wait_for` swallows a cancellation that arrives at the moment the data are sent: a task that was
    cancelled would run on.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        timeout_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(timeout_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError as error:
            raise RedisTimeoutError("Timeout writing to socket") from error
        finally:
            self.socket_timeout = timeout_s


def _send_cancellably(pool: ConnectionPool) -> None:
    """Make all connections of a pool (TCP, TLS, unix socket, Sentinel) send as `_CancellableSending` does."""
    pool.connection_class = type("Connection", (_CancellableSending, pool.connection_class), {})


async def _close_sentinels(pool: ConnectionPool) -> None:
    if isinstance(pool, SentinelConnectionPool):
        for client in pool.sentinel_manager.sentinels:
            await client.aclose()


class Link:
    """One connection for one task. Either all replies of a call arrive, or the connection is closed.

    With `incarnations` None it passes no fence: only the recovery and diagnostics may use that. `is_open`: a call can
    be made.
    """

    def __init__(self, settings: Settings, incarnations: Incarnations | None) -> None:
        self._incarnations = incarnations
        self._pool = _connection_pool(settings, ConnectionPool, socket_timeout=None)
        self._connection: AbstractConnection | None = None
        # A plain attribute: the engine reads it twice in every round trip.
        self.is_open = False
        self.blessed: Blessed | None = None
        self.run_id = ""

    async def open(self) -> None:
        """Connect and pass the fence. Raises RedisUnavailableError or NotReadyError."""
        await self.close()
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S * 3):
                await connection.connect()
                self.run_id = await run_id_of(connection)
                if self._incarnations is not None:
                    self.blessed = await self._incarnations.admit(self.run_id)
                    if self.blessed is None:
                        raise NotReadyError("this Redis server is not blessed (yet)")
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, PostgresUnavailableError):
                raise NotReadyError("this Redis server is unknown and Postgres is unavailable") from error
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                raise RedisUnavailableError(f"{type(error).__name__}: {error}") from error
            raise
        self._connection = connection
        self.is_open = True

    async def aclose(self) -> None:
        """Close the link; it cannot be opened again."""
        await self.close()
        await _close_sentinels(self._pool)

    async def close(self) -> None:
        """Close the connection; `open` opens another one."""
        connection, self._connection = self._connection, None
        self.is_open = False
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def call(self, commands: Sequence[Sequence[Value]], *, timeout_s: float) -> list[Any]:
        """Send all commands at once and return all replies in order; an error reply is a ResponseError in its place.

        Raises RedisUnavailableError when not all replies arrived in time: the outcome of every command is unknown then,
        and the connection is closed.
        """
        connection = self._connection
        if connection is None:
            raise RedisUnavailableError("not connected")
        replies: list[Any] = []
        try:
            async with asyncio.timeout(timeout_s):
                packed = b"".join([pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
                await connection.send_packed_command(packed, check_health=False)
                for _ in commands:
                    try:
                        replies.append(await connection.read_response(timeout=math.inf))
                    except ResponseError as refusal:
                        replies.append(refusal)
        except BaseException as error:
            await self.close()
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                raise RedisUnavailableError(f"{type(error).__name__}: {error}") from error
            raise
        return replies


class Redis:
    """Pooled, fenced access for everything but the hot path. `client` is for reads and pipelines of reads."""

    def __init__(
        self, settings: Settings, incarnations: Incarnations, *, size: int = 8, timeout_s: float = 10.0
    ) -> None:
        self._incarnations = incarnations
        self._pool = _connection_pool(
            settings, BlockingConnectionPool, max_connections=size, timeout=timeout_s, socket_timeout=timeout_s,
            redis_connect_func=self._pass_fence,
        )  # fmt: skip
        _send_cancellably(self._pool)
        self.client: aioredis.Redis = aioredis.Redis(connection_pool=self._pool)
        self._closing: set[asyncio.Task[None]] = set()
        incarnations.on_change(self._drop_connections)

    @property
    def partitions(self) -> int:
        return self._incarnations.partitions

    @property
    def epoch(self) -> int:
        """The epoch of the blessed pair. Raises NotReadyError while there is none."""
        blessed = self._incarnations.blessed
        if blessed is None:
            raise NotReadyError("no Redis server is blessed")
        return blessed.epoch

    async def _pass_fence(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        try:
            blessed = await self._incarnations.admit(await run_id_of(connection))
        except PostgresUnavailableError as error:
            raise _FencedError("this Redis server is unknown and Postgres is unavailable") from error
        if blessed is None:
            raise _FencedError("this Redis server is not blessed (yet)")

    def _drop_connections(self) -> None:
        task = asyncio.get_running_loop().create_task(self._close_connections(), name="close-unblessed-connections")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_connections(self) -> None:
        # Connections in use are closed when they return to the pool: the driver cannot lose one in the middle of a
        # command. Commands on them carry the epoch, which another data set refuses.
        await self._pool.update_active_connections_for_reconnect()
        await self._pool.disconnect(inuse_connections=False)

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> list[Any]:
        """Run a script with the blessed epoch before `args`. Return its reply, whose first item is the status.

        Raises NotReadyError (also during an incident) and RedisRefusedError (nothing was changed),
        RedisUnavailableError (outcome unknown).
        """
        command = ("EVALSHA", script.sha, len(keys), *keys, self._epoch_of_a_change(), *args)
        async with redis_errors_translated():
            try:
                reply = await self.client.execute_command(*command)
            except NoScriptError:
                await self.client.execute_command("SCRIPT", "LOAD", script.text)
                reply = await self.client.execute_command(*command)
        self._refuse_stale(script, reply)
        return reply  # type: ignore[no-any-return]

    async def run_all(self, script: Script, calls: Sequence[ScriptCall]) -> list[list[Any]]:
        """Run a script many times in one round trip, each call as `run` does it. Return their replies.

        Raises the errors of `run` if any call has one: the others were made as well.
        """
        epoch = self._epoch_of_a_change()
        pipeline = self.client.pipeline(transaction=False)
        pipeline.execute_command("SCRIPT", "LOAD", script.text)
        for keys, args in calls:
            pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, epoch, *args)
        async with redis_errors_translated():
            _, *replies = await pipeline.execute()
        for reply in replies:
            self._refuse_stale(script, reply)
        return replies

    def _epoch_of_a_change(self) -> int:
        # Everything but redemptions comes this way: top-ups, rules, windows. It may rest on what Postgres has lost.
        if self._incarnations.incident:
            raise NotReadyError(self._incarnations.incident)
        return self.epoch

    def _refuse_stale(self, script: Script, reply: Sequence[Any]) -> None:
        if reply[0] == b"STALE_EPOCH":
            self._incarnations.wake.set()
            raise NotReadyError(f"{script.name}: the data set carries another epoch")

    async def host_ms(self) -> int:
        """Return the time of Redis' host. Raises NotReadyError while its clock cannot be right."""
        began_s = time.monotonic()
        async with redis_errors_translated():
            now_ms = time_ms(await self.client.time())
        watch = self._incarnations.watch
        if not watch.judge_clock(ClockReading.of(now_ms, began_s, time.monotonic())):
            raise NotReadyError(watch.stopped)
        return now_ms

    async def aclose(self) -> None:
        await self.client.aclose()
        await self._pool.disconnect()
        await _close_sentinels(self._pool)


@asynccontextmanager
async def redis_errors_translated() -> AsyncIterator[None]:
    """Translate the driver's exceptions into RedisUnavailableError and its subclasses."""
    try:
        yield
    except _FencedError as error:
        raise NotReadyError(str(error)) from error
    except ResponseError as error:
        raise RedisRefusedError(str(error)) from error
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisUnavailableError(f"{type(error).__name__}: {error}") from error

"""The guardian: the task in each process that watches the Redis server and starts a recovery when it is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from issuer.contract.keys import partition_keys
from issuer.contract.scripts import BEAT_PARTITION, MARK_LINEAGE
from issuer.recovery.inspection import inspect_partitions, parse_info
from issuer.recovery.lock import HeldLink, recovery_lock
from issuer.recovery.rebuild import run_all
from issuer.recovery.recovery import Recovery, RecoveryOptions, RecoveryReport
from issuer.recovery.serials import behind
from issuer.settings import Settings
from issuer.storage.ending import end_tasks
from issuer.storage.floors import Floors
from issuer.storage.incarnation import Blessed, Incarnations, InstallationError
from issuer.storage.lineage import IncidentError, TokenKind, new_token
from issuer.storage.postgres import Pool, PostgresUnavailableError, count_of, unavailable_translated
from issuer.storage.redis_link import (
    Link,
    NotReadyError,
    RedisRefusedError,
    RedisUnavailableError,
    Value,
    accepted,
    time_ms,
)
from issuer.storage.server_watch import ClockReading, Stop

log = structlog.get_logger()

WATCH_EVERY_S: Final = 0.5
"""How often the beats of the partitions are raised, which exposes older data that were put back."""
RETRY_EVERY_S: Final = 0.2
LOOK_EVERY_S: Final = 1.0
"""How often the clocks are compared and the eviction policy is read."""
LOOK_TIMEOUT_S: Final = 2.0
MARK_EVERY_S: Final = 12 * 3600.0
"""How often a process writes a token to Redis: a partition without redemptions must not keep one that expires."""

HEARTBEAT_EVERY_S: Final = 1.0
_HEARTBEAT: Final = f"""
UPDATE incarnations SET seen_at = now()
WHERE run_id = $1 AND seen_at < now() - {HEARTBEAT_EVERY_S} * interval '1 second'"""

_EVICTED_BEFORE: Final = "SELECT (server ->> 'evicted_keys')::bigint FROM incarnations WHERE epoch = $1"


class Guardian:
    """The task that watches the Redis server.

    It recovers a server that is not the blessed one, or has older data, and reports the heartbeat of the blessed one to
    Postgres.

    `trouble` is why the server is not ready, in words for an operator; empty while it is.
    """

    def __init__(self, settings: Settings, postgres: Pool, incarnations: Incarnations) -> None:
        self._settings = settings
        self._postgres = postgres
        self._incarnations = incarnations
        self._link = Link(settings, None)
        self._checking = asyncio.Lock()
        self._started = False
        self._evicted_before = (0, 0)
        self._marked: Blessed | None = None
        self._mark_at = 0.0
        self._heartbeat_at = ("", 0.0)
        self._look_at = 0.0
        self.trouble = ""

    async def check(self, options: RecoveryOptions | None = None) -> RecoveryReport | None:
        """Recover the server if it is not the blessed one, or if `options` ask for it; return once it is blessed.

        None: there was nothing to recover. Raises RedisUnavailableError, PostgresUnavailableError, and IncidentError
        when an operator must decide.
        """
        async with self._checking:
            return await self._check(options)

    async def _check(self, options: RecoveryOptions | None = None, *, looks: bool = True) -> RecoveryReport | None:
        # Sentinel names the present primary only to a new connection.
        if not self._link.is_open or self._settings.redis_url.get_secret_value().startswith("sentinel"):
            await self._link.open()
            looks = True
        if looks:
            await self._look()
        blessed = self._incarnations.blessed
        watch = self._incarnations.watch
        if options is None and Stop.LOST_KEYS in watch.stops:
            options = RecoveryOptions(rebuild=True, rebuild_epoch=watch.lost_keys_in)
        if (
            options is None
            and blessed is not None
            and blessed.run_id == self._link.run_id
            and await self._beat(blessed)
        ):
            return None
        with suppress(PostgresUnavailableError):
            # Before the wait for the lock: a process that does not know of the recovery that holds it would keep its
            # connections to the old server, and that recovery waits until they are closed.
            await self._incarnations.refresh()
        try:
            async with unavailable_translated(), recovery_lock(self._settings) as connection:
                held = HeldLink(self._link, connection)
                floors = self._incarnations.floors
                report = await Recovery(self._settings, connection, held, options or RecoveryOptions(), floors).run()
        finally:
            # Also after a failure: the fence may be up.
            with suppress(PostgresUnavailableError):
                await self._incarnations.refresh()
        if options is not None and options.rebuild:
            # By this recovery, or by that of another process, which has taken a later epoch. Behind the refresh: an
            # engine that may issue again must not open its connection under the epoch of before.
            watch.note_rebuilt()
        return report

    async def _look(self) -> None:
        """Compare the clocks and read the eviction policy.

        Raises NotReadyError while Redis' clock cannot be right, which a recovery would store, and IncidentError while
        Redis may evict.
        """
        watch, began_s = self._incarnations.watch, time.monotonic()
        # Every second turn of the watch, which takes a little longer than WATCH_EVERY_S.
        self._look_at = began_s + LOOK_EVERY_S - WATCH_EVERY_S / 2
        commands = [("TIME",), ("INFO", "memory"), ("INFO", "stats")]
        now, memory, stats = accepted(await self._link.call(commands, timeout_s=LOOK_TIMEOUT_S))
        is_right = watch.judge_clock(ClockReading.of(time_ms(now), began_s, time.monotonic()))
        evicted = await self._count_evicted(int(parse_info(stats)["evicted_keys"]))
        if not watch.judge_policy(parse_info(memory)["maxmemory_policy"], evicted=evicted):
            raise IncidentError(watch.stopped)
        if not is_right:
            raise NotReadyError(watch.stopped)

    async def _beat(self, blessed: Blessed) -> bool:
        """Raise the beat of every partition. False: one has another epoch, or data older than this process has seen."""
        floors = self._incarnations.floors_of(blessed.epoch)
        commands: list[Sequence[Value]] = [("SCRIPT", "LOAD", BEAT_PARTITION.text)]
        for partition, (serial, beat) in enumerate(zip(floors.serials, floors.beats, strict=True)):
            state = partition_keys(partition).state
            commands.append(("EVALSHA", BEAT_PARTITION.sha, 1, state, blessed.epoch, serial, beat))
        replies = await self._link.call(commands, timeout_s=LOOK_TIMEOUT_S)
        if any(isinstance(reply, Exception) for reply in replies):
            # It refuses writes (its disk is full, …), and may be the blessed one all the same.
            known = Floors(floors.epoch, self._incarnations.partitions)
            # Before the data are read: what the engine receives meanwhile may be above them.
            known.see_all(floors)
            states = await inspect_partitions(self._link, self._incarnations.partitions)
            is_of_epoch = all(state.get("epoch") == str(blessed.epoch) for state in states)
            self._incarnations.lineage.see(state.get("lineage", "") for state in states)
            return is_of_epoch and not behind(states, known)
        # Few different ones. The next refresh looks whether Postgres knows them.
        self._incarnations.lineage.see({reply[3] for reply in replies[1:] if reply[0] == b"DONE"})
        for partition, reply in enumerate(replies[1:]):
            if reply[0] != b"DONE":
                log.error("the data of Redis are not those of before", partition=partition, status=reply[0].decode())
                return False
            floors.see(partition, int(reply[1]), int(reply[2]))
        return True

    async def _count_evicted(self, by_server: int) -> int:
        """Return how many keys the blessed server has evicted since it was blessed; `by_server`: since its start."""
        blessed = self._incarnations.blessed
        if by_server == 0 or blessed is None or blessed.run_id != self._link.run_id:
            return 0
        epoch, before = self._evicted_before
        if epoch != blessed.epoch:
            try:
                async with unavailable_translated():
                    before = await self._postgres.fetchval(_EVICTED_BEFORE, blessed.epoch) or 0
            except PostgresUnavailableError:
                return 0  # compared once Postgres is available
            self._evicted_before = (blessed.epoch, before)
        return by_server - before

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch in the background until the block ends."""
        task = asyncio.create_task(self._watch(), name="guardian")
        try:
            yield
        finally:
            await end_tasks(task)

    async def aclose(self) -> None:
        await self._link.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                await self._watch_once()
                self.trouble = ""
            except (RedisUnavailableError, PostgresUnavailableError, IncidentError, InstallationError) as error:
                if str(error) != self.trouble:
                    log.warning("not ready to issue", reason=str(error))
                self.trouble = str(error)
            except Exception as error:
                # The task must not end: without a guardian this process would stay not ready after the next restart of
                # Redis.
                trouble = f"{type(error).__name__}: {error}"
                if trouble != self.trouble:
                    log.exception("guardian failed unexpectedly; retrying")
                self.trouble = trouble
            self._incarnations.wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_EVERY_S if self.trouble else WATCH_EVERY_S):
                    await self._incarnations.wake.wait()

    async def _watch_once(self) -> None:
        if not self._started:
            await self._incarnations.start()
            self._started = True
        with suppress(PostgresUnavailableError):
            await self._incarnations.refresh()
        try:
            async with self._checking:
                await self._check(looks=bool(self._incarnations.watch.stops) or time.monotonic() >= self._look_at)
        finally:
            await self._report_heartbeat()
        blessed = self._incarnations.blessed
        if blessed is not None and (blessed != self._marked or time.monotonic() >= self._mark_at):
            with suppress(PostgresUnavailableError):
                # One exchange at a time on the connection: a check may have begun meanwhile.
                async with self._checking, unavailable_translated():
                    await self._mark(blessed)

    async def _report_heartbeat(self) -> None:
        """Report that the blessed server is alive, also while it must not issue: no other one is blessed meanwhile."""
        blessed = self._incarnations.blessed
        if blessed is None or not self._link.is_open or blessed.run_id != self._link.run_id:
            return
        now = time.monotonic()
        of, at = self._heartbeat_at
        if of == blessed.run_id and now < at + HEARTBEAT_EVERY_S:
            # Nor would Postgres store it.
            return
        # Postgres may be unavailable: the blessed server issues without it.
        with suppress(PostgresUnavailableError):
            async with unavailable_translated():
                if count_of(await self._postgres.execute(_HEARTBEAT, blessed.run_id)):
                    self._heartbeat_at = (blessed.run_id, now)

    async def _mark(self, blessed: Blessed) -> None:
        """Write a token of this process to Redis: a Postgres that is set back behind this moment does not know it."""
        async with self._postgres.acquire() as connection, connection.transaction():
            pair = await connection.fetchrow("SELECT epoch, run_id FROM installation WHERE incident IS NULL FOR SHARE")
            if pair is None or Blessed(*pair) != blessed:
                return
            token = await new_token(connection, TokenKind.CONNECTION)
        lineage = self._incarnations.lineage
        lineage.last = token
        states = [partition_keys(partition).state for partition in range(self._incarnations.partitions)]
        with suppress(RedisRefusedError):  # at its memory limit; the token is written later
            replies = await run_all(self._link, MARK_LINEAGE, [([key], [blessed.epoch, token.hex]) for key in states])
            lineage.see(reply[1] for reply in replies)
            self._marked, self._mark_at = blessed, time.monotonic() + MARK_EVERY_S

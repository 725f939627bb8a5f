"""The worker as a process: its tasks, its end on SIGTERM, its exit status."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.incarnation import InstallationError
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.stores import Stores
from sync_worker.maintenance.tasks import MaintenanceTasks
from sync_worker.reader import StreamReader
from sync_worker.worker import BackOff, Worker
from sync_worker.writer import LedgerWriter

log = structlog.get_logger()

FAILED_STOP_S: Final = 10.0
POSTGRES_SIZE: Final = 6
"""Connections for chores; the ledger has one of its own."""


class TaskEndedError(Exception):
    """A task that should run until the stop has ended by itself."""


async def run(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT, then ends within about `shutdown_timeout_s`.

    Raises InstallationError, or whatever ended a task: a worker that does not do all its work must not look alive.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_stores(settings, postgres_size=POSTGRES_SIZE, wait_until_ready=False) as stores:
        if await _start(stores, stopping):
            await _work(settings, stores, stopping)
    log.info("stopped")


async def _start(stores: Stores, stopping: asyncio.Event) -> bool:
    """Waits for Postgres and checks that these data are for this program. False: stopped while waiting."""
    back_off = BackOff(stopping)
    while not stopping.is_set():
        try:
            await stores.incarnations.start()
        except PostgresUnavailableError as error:
            log.warning("waiting for Postgres", reason=str(error))
            await back_off.wait()
        else:
            return True
    return False


async def _work(settings: Settings, stores: Stores, stopping: asyncio.Event) -> None:
    # Longer than a transaction can take: a worker that is at it still must not be taken for dead.
    min_idle_ms = int(settings.postgres_timeout_s * 2 * 1000)
    reader = StreamReader(settings, stores.incarnations, min_idle_ms=min_idle_ms)
    worker = Worker(reader, LedgerWriter(settings), stopping)
    chores = MaintenanceTasks(stores, reader.name, worker.progress)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_until_stop(worker.run(), "ledger", stopping), name="ledger")]
        for chore in chores.all():
            tasks.append(group.create_task(_until_stop(chore.run(stopping), chore.name, stopping), name=chore.name))
        group.create_task(_bound_the_stop(stopping, tasks, settings.shutdown_timeout_s), name="bounded-stop")


async def _until_stop(work: Coroutine[Any, Any, None], name: str, stopping: asyncio.Event) -> None:
    try:
        await work
        if not stopping.is_set():
            raise TaskEndedError(name)
    except Exception:
        # The others are cancelled now; one whose cancellation is lost in a library sees this and ends all the same.
        stopping.set()
        asyncio.get_running_loop().call_later(FAILED_STOP_S, _end_in_any_case)
        raise


def _end_in_any_case() -> None:
    log.error("the worker failed, and a task of it did not end")
    os._exit(1)


async def _bound_the_stop(stopping: asyncio.Event, tasks: list[asyncio.Task[None]], limit_s: float) -> None:
    """Everything may be cut at any time; what was not acknowledged is read again by the next worker."""
    await stopping.wait()
    _, late = await asyncio.wait(tasks, timeout=limit_s)
    for task in late:
        log.warning("cut at the end of the shutdown time", task=task.get_name())
        task.cancel()


def exit_status(settings: Settings) -> int:
    """Runs the worker; 0 after a clean stop, 1 after a failure, which was logged."""
    try:
        asyncio.run(run(settings))
    except InstallationError as error:
        log.error("these data are not for this program", reason=str(error))
        return 1
    except Exception:
        log.exception("the worker failed")
        return 1
    return 0

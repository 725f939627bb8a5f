"""The worker as a process: its tasks, its stop on SIGTERM, its exit status."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.grants import Process
from issuer.storage.incarnation import InstallationError
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.roles import log_rights
from issuer.storage.stores import Stores
from issuer.storage.task_rows import TaskRows
from sync_worker.maintenance.tasks import MaintenanceTasks
from sync_worker.reader import StreamReader
from sync_worker.worker import BackOff, Worker
from sync_worker.writer import LedgerWriter

log = structlog.get_logger()

FAILED_STOP_S: Final = 10.0
POSTGRES_SIZE: Final = 6
"""Connections for the maintenance tasks. The ledger has one of its own."""


class TaskEndedError(Exception):
    """A task returned although the worker was not stopping."""


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then stop within about `shutdown_timeout_s`.

    Raises InstallationError, and the error that ended a task: a worker that lacks one of its tasks must not look alive.
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
    """Wait for Postgres and check that this version fits the data. False: stopped while waiting."""
    back_off = BackOff(stopping)
    while not stopping.is_set():
        try:
            await stores.incarnations.start()
        except PostgresUnavailableError as error:
            log.warning("waiting for Postgres", reason=str(error))
            await back_off.wait()
        else:
            await log_rights(stores.postgres, Process.WORKER)
            return True
    return False


async def _work(settings: Settings, stores: Stores, stopping: asyncio.Event) -> None:
    # Longer than a transaction can take: the entries of a worker that still writes them must not be claimed.
    min_idle_ms = int(settings.postgres_timeout_s * 2 * 1000)
    reader = StreamReader(settings, stores.incarnations, min_idle_ms=min_idle_ms)
    worker = Worker(reader, LedgerWriter(settings, stores.incarnations.lineage), stopping)
    rows = TaskRows(stores)
    maintenance = MaintenanceTasks(stores, rows, reader.name, worker.progress)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_until_stop(worker.run(), "ledger", stopping), name="ledger")]
            for task in maintenance.all():
                tasks.append(group.create_task(_until_stop(task.run(stopping), task.name, stopping), name=task.name))
            group.create_task(_bound_the_stop(stopping, tasks, settings.shutdown_timeout_s), name="bounded-stop")
    finally:
        await rows.aclose()


async def _until_stop(work: Coroutine[Any, Any, None], name: str, stopping: asyncio.Event) -> None:
    try:
        await work
        if not stopping.is_set():
            raise TaskEndedError(name)
    except Exception:
        # The group now cancels the other tasks. One whose cancellation is lost in a library sees this flag. If a task
        # sees neither, the timer ends the process: a worker must not run on with half of its tasks.
        stopping.set()
        asyncio.get_running_loop().call_later(FAILED_STOP_S, _exit_process)
        raise


def _exit_process() -> None:
    log.error("the worker failed and one of its tasks did not end; exiting")
    os._exit(1)


async def _bound_the_stop(stopping: asyncio.Event, tasks: list[asyncio.Task[None]], limit_s: float) -> None:
    """Cancel the tasks that have not ended `limit_s` after the stop.

    That is safe at any point: entries that were not acknowledged are read again by the next worker.
    """
    await stopping.wait()
    _, late = await asyncio.wait(tasks, timeout=limit_s)
    for task in late:
        log.warning("task cancelled at the end of the shutdown time", task=task.get_name())
        task.cancel()


def exit_status(settings: Settings) -> int:
    """Run the worker. Return 0 after a clean stop, 1 after a failure, which is logged."""
    try:
        asyncio.run(run(settings))
    except InstallationError as error:
        log.error("this version does not fit the data", reason=str(error))
        return 1
    except Exception:
        log.exception("the worker failed")
        return 1
    return 0

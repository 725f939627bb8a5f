"""An executor of points in a process of its own, asked through a socket."""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Final

from starlette.responses import Response

from issuer.http.fields import json_response
from issuer.http.idempotency import AlreadyAnsweredError, Idempotency, KeyedAct
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.operations import Operation, TransferOut
from issuer.loyalty.outcome import Refusal
from issuer.settings import Settings
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import Pool, close_pool, connect_pool
from tests.support.environment import clean_environment

ANSWERED: Final = "answered"
Outcome = tuple[str, datetime | None]
"""What became of an operation, and when it was carried out; None: it was refused, or its key was answered before."""


@dataclass(frozen=True, slots=True)
class AskedPoints:
    """An operation on an account, or a transfer to `target_id`. `key`: its Idempotency-Key."""

    account_id: int
    operation: Operation
    target_id: int | None = None
    key: str | None = None


class PointsProcess:
    """The process as the test sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._task = asyncio.create_task(self._listen())

    async def ask(self, asked: AskedPoints) -> Outcome:
        number = next(self._numbers)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        _write(self._writer, (number, asked))
        return await future

    async def _listen(self) -> None:
        try:
            while True:
                number, outcome = await _read(self._reader)
                self._waiting.pop(number).set_result(outcome)
        except asyncio.IncompleteReadError:
            for future in self._waiting.values():
                future.set_exception(ConnectionError("the process of the executor has ended"))

    async def aclose(self) -> None:
        self._writer.close()
        await self._task


@asynccontextmanager
async def points_process(settings: Settings) -> AsyncIterator[PointsProcess]:
    """Run an executor in a process of its own."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, str(theirs.fileno()), pass_fds=[theirs.fileno()], env=clean_environment()
        )
    process = PointsProcess(*await asyncio.open_connection(sock=ours))
    try:
        _write(process._writer, settings.database_url.get_secret_value())
        yield process
    finally:
        await process.aclose()
        assert await program.wait() == 0


async def _serve(descriptor: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
    postgres = await connect_pool(Settings(database_url=await _read(reader)), size=3)
    executor = LoyaltyExecutor(postgres, timeout_s=30.0)

    async def answer(number: int, asked: AskedPoints) -> None:
        _write(writer, (number, await _carry_out(postgres, executor, asked)))

    async with asyncio.TaskGroup() as group:
        while True:
            try:
                number, asked = await _read(reader)
            except asyncio.IncompleteReadError:
                break
            group.create_task(answer(number, asked))
    await executor.aclose()
    await close_pool(postgres)


async def _carry_out(postgres: Pool, executor: LoyaltyExecutor, asked: AskedPoints) -> Outcome:
    async def show(_: Any) -> Response:
        return json_response({})

    act: Act[Any] = UNKEPT
    if asked.key is not None:
        act = KeyedAct(Idempotency(postgres, None, "POST /walk", asked.key, b"1" * 32), show)
    try:
        if asked.target_id is None:
            outcome = await executor.execute(asked.account_id, asked.operation, act=act)
            if isinstance(outcome, Refusal):
                return str(outcome.code), None
            return "replayed" if outcome.replayed else "ok", outcome.state.touched_at
        operation = asked.operation
        assert isinstance(operation, TransferOut)
        moved = await executor.transfer(
            asked.account_id, asked.target_id, operation.points, move=operation.move, act=act
        )
    except AlreadyAnsweredError:
        return ANSWERED, None
    if isinstance(moved, Refusal):
        return str(moved.code), None
    return "ok", max(moved.source.state.touched_at, moved.target.state.touched_at)


def _write(writer: asyncio.StreamWriter, value: object) -> None:
    data = pickle.dumps(value)
    writer.write(len(data).to_bytes(4) + data)


async def _read(reader: asyncio.StreamReader) -> Any:
    return pickle.loads(await reader.readexactly(int.from_bytes(await reader.readexactly(4))))


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

"""Gathered reads: one statement for all that wait, each tenant in turn, and an error for its key alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from issuer.storage.gathered_reads import MAX_GATHERED, GatheredReads
from issuer.storage.look_ups import LookUpsBusyError
from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError


class Desk:
    """A pool without a server, and a read that waits until it is let go. `batches`: the keys of each statement."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.let_go = asyncio.Event()
        self.is_down = False

    @asynccontextmanager
    async def acquire(self, *, timeout: float) -> AsyncIterator[None]:
        if self.is_down:
            raise OSError("no server")
        yield

    async def read(self, _: AnyConnection, keys: Sequence[str]) -> Mapping[str, str | Exception]:
        self.batches.append(sorted(keys))
        await self.let_go.wait()
        if "broken" in keys:
            raise ValueError("broken")
        return {key: KeyError(key) if key == "missing" else key.upper() for key in keys}

    def reads(self, **options: Any) -> GatheredReads[str, str]:
        return GatheredReads(cast(Pool, self), self.read, timeout_s=1.0, **options)


async def test_what_waits_shares_a_statement_and_an_error_is_of_its_key_alone() -> None:
    desk = Desk()
    reads = desk.reads()
    first = asyncio.create_task(reads.find("a", "t"))
    while not desk.batches:
        await asyncio.sleep(0)
    keys = ("a", "b", "missing", "b", "broken", "c")
    later = [asyncio.create_task(reads.find(key, "t")) for key in keys]
    gone = asyncio.create_task(reads.find("gone", "t"))
    await asyncio.sleep(0)
    gone.cancel()
    desk.let_go.set()
    assert await first == "A"
    results = await asyncio.gather(*later, return_exceptions=True)
    assert [repr(result) for result in results] == [
        "'A'", "'B'", "KeyError('missing')", "'B'", "ValueError('broken')", "'C'",
    ]  # fmt: skip
    # A read never joins a statement that began before it; the one that fails is looked for by halves.
    assert desk.batches[:2] == [["a"], ["a", "b", "broken", "c", "missing"]]
    await reads.aclose()


async def test_tenants_take_turns_and_leave_each_other_room() -> None:
    desk = Desk()
    reads = desk.reads(max_waiting=4 * MAX_GATHERED)
    loud = [asyncio.create_task(reads.find(f"l{number}", "loud")) for number in range(2 * MAX_GATHERED)]
    await asyncio.sleep(0)
    with pytest.raises(LookUpsBusyError):
        await reads.find("one more", "loud")
    while not desk.batches:
        await asyncio.sleep(0)
    quiet = asyncio.create_task(reads.find("q", "quiet"))
    await asyncio.sleep(0)
    desk.let_go.set()
    assert await quiet == "Q"
    assert len(await asyncio.gather(*loud)) == 2 * MAX_GATHERED
    assert max(len(batch) for batch in desk.batches) == MAX_GATHERED
    assert ["q" in batch for batch in desk.batches] == [False, True, False]


async def test_an_unavailable_server_answers_all_that_wait_and_the_next_read_tries_again() -> None:
    desk = Desk()
    desk.let_go.set()
    desk.is_down = True
    reads = desk.reads()
    results = await asyncio.gather(*(reads.find(key, "t") for key in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [PostgresUnavailableError] * 2
    desk.is_down = False
    assert await reads.find("a", "t") == "A"
    desk.let_go.clear()
    waiting = [asyncio.create_task(reads.find(key, "t")) for key in "ab"]
    while desk.batches[-1] == ["a"]:
        await asyncio.sleep(0)
    waiting.append(asyncio.create_task(reads.find("c", "t")))
    await asyncio.sleep(0)
    await reads.aclose()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [PostgresUnavailableError] * 3

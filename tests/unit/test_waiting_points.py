"""The queue of operations on points: what one client sends makes no other client wait."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from issuer.loyalty.operations import Earn, Operation, OrderRef
from issuer.loyalty.waiting import MAX_IN_TRANSACTION, PointsBusyError, WaitingWorks
from issuer.loyalty.work import NO_ACTOR, Work
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import PostgresUnavailableError

BUSY, QUIET = UUID(int=1), UUID(int=2)
NOW = 5.0


class AloneAct(Act[Any]):
    pass


def work(
    client_id: UUID, account_id: int, operation: Operation | None = None, act: Act[Any] = UNKEPT, until: float = 9.0
) -> Work:
    answer = asyncio.get_running_loop().create_future()
    return Work(account_id, operation or Earn(1), None, client_id, NO_ACTOR, act, False, until, answer)


def accounts(works: list[Work]) -> list[int]:
    return [one.account_id for one in works]


async def test_a_client_takes_as_many_places_as_it_leaves_free() -> None:
    waiting = WaitingWorks(8)
    for client_id, places in ((BUSY, 4), (QUIET, 2), (UUID(int=3), 1)):
        for _ in range(places):
            waiting.add(work(client_id, 1))
        with pytest.raises(PointsBusyError):
            waiting.add(work(client_id, 1))
    assert len(waiting) == 7
    assert len(waiting.gather(NOW)) == 7
    waiting.add(work(BUSY, 1))
    assert (len(waiting.clear()), len(waiting)) == (1, 0)


async def test_clients_take_turns_in_each_transaction() -> None:
    waiting = WaitingWorks()
    for number in range(MAX_IN_TRANSACTION + 10):
        waiting.add(work(BUSY, number))
    waiting.add(work(QUIET, 1_001))
    waiting.add(work(QUIET, 1_002))
    first = accounts(waiting.gather(NOW))
    assert first[:5] == [0, 1_001, 1, 1_002, 2]
    assert len(first) == MAX_IN_TRANSACTION
    assert accounts(waiting.gather(NOW)) == list(range(MAX_IN_TRANSACTION - 2, MAX_IN_TRANSACTION + 10))
    assert waiting.gather(NOW) == []


async def test_a_repeated_order_is_waited_for_by_its_accounts_only() -> None:
    waiting = WaitingWorks()
    earn = Earn(order=OrderRef("shop", "1", 100))
    for _ in range(MAX_IN_TRANSACTION + 5):
        waiting.add(work(BUSY, 1, earn))
    waiting.add(work(BUSY, 2))
    waiting.add(work(QUIET, 3, earn))
    # The search ends before the other account of the same client, which comes later.
    assert accounts(waiting.gather(NOW)) == [1, 3]
    for _ in range(4):
        assert accounts(waiting.gather(NOW)) == [1]
    waiting.add(work(QUIET, 3, earn))
    assert sorted(accounts(waiting.gather(NOW))) == [1, 2, 3]


async def test_works_that_must_be_alone_take_turns_too() -> None:
    waiting = WaitingWorks()
    for account_id in (1, 2):
        waiting.add(work(BUSY, account_id, act=AloneAct()))
    for account_id in (3, 4):
        waiting.add(work(QUIET, account_id))
    late, gone = work(QUIET, 5, until=NOW), work(QUIET, 6)
    waiting.add(late)
    waiting.add(gone)
    gone.answer.cancel()
    assert [accounts(waiting.gather(NOW)) for _ in range(4)] == [[1], [3, 4], [2], []]
    assert isinstance(late.answer.exception(), PostgresUnavailableError)

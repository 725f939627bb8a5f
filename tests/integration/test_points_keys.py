"""Idempotency-Keys of operations on points: answers are looked for and kept for a whole transaction at once."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from starlette.responses import Response

from issuer.http.fields import json_response
from issuer.http.idempotency import AlreadyAnsweredError, Idempotency, KeyedAct
from issuer.http.problems.problem import ProblemError
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.operations import Earn, OrderRef, Spend, Sweep
from issuer.loyalty.outcome import Applied
from issuer.settings import Settings
from issuer.storage.kept_answers import keep_answers
from issuer.storage.postgres import PostgresUnavailableError
from tests.support.points import PointsDesk, points_desk


def act_of(desk: PointsDesk, key: str, digest: bytes = b"1" * 32) -> KeyedAct[Any]:
    async def show(applied: Applied) -> Response:
        assert applied.entry is not None
        return json_response({"seq": applied.entry.seq})

    return KeyedAct(Idempotency(desk.postgres, None, "POST /earn", key, digest), show)


async def test_a_repeat_finds_the_first_answer_and_another_request_is_refused(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()
        first = act_of(desk, "k")
        await desk.executor.execute(account, Earn(5), act=first)
        with pytest.raises(AlreadyAnsweredError) as found:
            await desk.executor.execute(account, Earn(5), act=act_of(desk, "k"))
        assert found.value.answer.body == first.response.body == b'{"seq":1}'
        with pytest.raises(ProblemError, match="another request"):
            await desk.executor.execute(account, Earn(6), act=act_of(desk, "k", b"2" * 32))
        # A refusal keeps no answer: the same key may be used again.
        await desk.executor.execute(account, Spend(6), act=act_of(desk, "later"))
        await desk.executor.execute(account, Earn(1), act=act_of(desk, "later"))
        assert (await desk.row(account))[:2] == (2, 6)


async def test_one_of_many_repeats_at_once_is_carried_out_in_whatever_process(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        accounts = await desk.accounts(3)
        other = LoyaltyExecutor(desk.postgres, timeout_s=10.0)
        executors = (desk.executor, other)
        # Each has its connection from here on: otherwise the first would be done before the second is connected.
        await asyncio.gather(*(one.execute(accounts[0], Sweep()) for one in executors))
        outcomes = await asyncio.gather(
            *(
                executors[number % 2].execute(accounts[number % 3], Earn(1), act=act_of(desk, f"k{number // 8}"))
                for number in range(80)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Applied) for outcome in outcomes) == 10
        assert sum(isinstance(outcome, AlreadyAnsweredError) for outcome in outcomes) == 70
        assert await desk.postgres.fetchval("SELECT sum(available) FROM accounts") == 10
        # The same with the natural key, and without another one: the account that came first has the order.
        orders = await asyncio.gather(
            *(
                executors[number % 2].execute(accounts[number % 3], Earn(order=OrderRef("shop", "A", 1_000)))
                for number in range(40)
            )
        )
        assert sum(isinstance(outcome, Applied) and not outcome.replayed for outcome in orders) == 1
        assert await desk.postgres.fetchval("SELECT count(*) FROM orders") == 1
        await other.aclose()


async def test_an_answer_that_cannot_be_shown_changes_nothing_and_no_other_operation(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()

        async def fail(applied: Applied) -> Response:
            raise ValueError("cannot be shown")

        bad = KeyedAct(Idempotency(desk.postgres, None, "POST /earn", "bad", b"3" * 32), fail)
        outcomes = await asyncio.gather(
            desk.executor.execute(account, Earn(1)),
            desk.executor.execute(account, Earn(100), act=bad),
            desk.executor.execute(account, Earn(2)),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ValueError)
        assert await desk.row(account) == (2, 3, 0, 0, 0)


async def test_a_connection_that_is_lost_at_the_commit_leaves_an_outcome_that_a_repeat_finds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()

        async def lose(connection: asyncpg.Connection[asyncpg.Record], *rest: Any) -> bool:
            kept = await keep_answers(connection, *rest)
            await connection.execute("COMMIT; BEGIN")
            killer = await asyncpg.connect(settings.database_url.get_secret_value())
            await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await killer.close()
            return kept

        with monkeypatch.context() as patch:
            patch.setattr("issuer.loyalty.transaction.keep_answers", lose)
            with pytest.raises(PostgresUnavailableError):
                await desk.executor.execute(account, Earn(5), act=act_of(desk, "k"))
        with pytest.raises(AlreadyAnsweredError):
            await desk.executor.execute(account, Earn(5), act=act_of(desk, "k"))
        assert await desk.row(account) == (1, 5, 0, 0, 0)

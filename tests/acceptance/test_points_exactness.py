"""Exactly the balance: a crowd on four API processes spends one account, counted by customers and ledger."""

from __future__ import annotations

from uuid import uuid4

import pytest

from issuer.loyalty.account import EntryOp
from tests.support.crowd import Rush, every_rush, tally
from tests.support.points_crowd import SpendWish, make_member
from tests.support.service import Service, crowd_of_all

pytestmark = pytest.mark.xdist_group("service")

TOO_FEW = "403 not enough points"


@every_rush
async def test_concurrent_spends_take_exactly_the_balance(service: Service, rush: Rush) -> None:
    path = await make_member(service, rush.stock)
    wishes = [SpendWish(uuid4(), uuid4(), key=f"{path}-{number}", path=path) for number in range(rush.requests)]
    async with crowd_of_all(service, rush.connections) as crowd:
        answers = await crowd.ask(wishes)
        assert tally(answers) == {"201": rush.stock, TOO_FEW: rush.refused}
        # Every repeat of a request that was granted is answered as it was.
        granted = [(wish, answer) for wish, answer in zip(wishes, answers, strict=True) if answer.status == 201]
        repeats = await crowd.ask([wish for wish, _ in granted[: rush.connections]])
    assert [one.text for one in repeats] == [answer.text for _, answer in granted[: rush.connections]]
    assert all(one.replayed for one in repeats)
    assert len({answer.text for _, answer in granted}) == rush.stock
    rows = await service.sql("SELECT seq, op, points, available FROM entries WHERE account_id = $1 ORDER BY seq",
                             int(granted[0][1].text.partition("-")[0]))  # fmt: skip
    expected = [(seq, EntryOp.SPEND, 1, rush.stock + 1 - seq) for seq in range(2, rush.stock + 2)]
    assert [tuple(row) for row in rows[1:]] == expected

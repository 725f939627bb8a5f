"""Purchases: the code in the answer, points restored after a refusal, and what becomes of one that is left halfway."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.loyalty.move_audit import find_wrong_moves
from issuer.loyalty.operations import Adjust
from issuer.loyalty.outcome import Refusal
from issuer.loyalty.purchase import NewPurchase, PurchaseAttempt
from issuer.loyalty.rewards import find_reward
from issuer.recovery.opening import GuardedStores
from issuer.recovery.release import release
from tests.support.api import Api, problem
from tests.support.loyalty import ONE_FOR_ONE, LoyaltyShop
from tests.support.points import earlier_buckets
from tests.support.recording import drain

pytestmark = pytest.mark.shared_app

END_LEASES = """
UPDATE purchases SET attempt_until = now() - interval '1 second' WHERE attempt_until IS NOT NULL"""
AGE = """
WITH aged AS (UPDATE moves SET created_at = created_at - interval '25 hours'),
more AS (UPDATE redemptions SET redeemed_at = redeemed_at - interval '25 hours')
UPDATE purchases SET attempt_until = attempt_until - interval '25 hours'"""


@dataclass(frozen=True, slots=True)
class Counter:
    """A shop whose member Anna has points, and a reward."""

    shop: LoyaltyShop
    reward: str
    batch: UUID

    @classmethod
    async def of(cls, api: Api, *codes: str, rules: str = "", points: int = 100, cost: int = 10) -> Counter:
        shop = await LoyaltyShop.of(api, terms=ONE_FOR_ONE | {"expiry": {"days": 30}})
        batch, _ = await api.batch(*codes, client=shop.client_id, rules=rules)
        account = await api.owner.fetchval("SELECT id FROM accounts WHERE member_id = $1", UUID(shop.anna))
        await api.services.loyalty.execute(account, Adjust(points, "test"))
        await api.owner.execute(f"UPDATE accounts SET buckets = {earlier_buckets(7)}")
        new = {"name": "A mug", "cost": cost, "batch": str(batch)}
        created = await shop.program_post("rewards", new)
        assert created.status_code == 201, created.text
        return cls(shop, created.json()["id"], batch)

    async def buy(self, key: str = "", **more: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return await self.shop.post("purchases", {"reward": self.reward, **more}, **headers)

    async def available(self) -> int:
        return int((await self.shop.member())["available"])

    async def purchases(self) -> list[dict[str, Any]]:
        return await self.shop.items("purchases")


async def test_a_purchase_answers_the_code_and_a_repeat_the_same(api: Api) -> None:
    counter = await Counter.of(api, "A1", "A2")
    bought = await counter.buy("one")
    assert bought.status_code == 201, bought.text
    purchase = bought.json()
    assert (purchase["code"], purchase["state"], purchase["points"]) == ("A1", "done", 10)
    again = await counter.buy("one")
    assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (201, purchase, "true")
    assert problem(await counter.shop.post("purchases", {"reward": str(uuid4())}, **{"Idempotency-Key": "one"}), 404)
    reused = problem(await counter.buy("one", **{"reward": counter.reward.upper()}), 422)
    assert reused["code"] == "idempotency_key_reused"
    assert (await counter.buy()).json()["code"] == "A2"
    assert [one["code"] for one in await counter.purchases()] == ["A2", "A1"]
    assert await counter.available() == 80

    # Sold out: refused, the points are restored, and the key is free for the next attempt.
    sold_out = problem(await counter.buy("two"), 409)
    assert sold_out["code"] == "reward_sold_out"
    assert await counter.available() == 80
    assert [(one["state"], one["refusal"]) for one in await counter.purchases()] == [
        ("undone", "sold_out"),
        ("done", None),
        ("done", None),
    ]

    # The customer in the ledger is the member's ref.
    await drain(api.services.stores)
    rows = await api.owner.fetch("SELECT DISTINCT customer_id FROM redemptions")
    assert [row["customer_id"] for row in rows] == [api.services.stores.identity("anna").uuid]


@pytest.mark.own_app
async def test_codes_do_not_keep_what_a_member_is_or_was_called(api: Api) -> None:
    counter = await Counter.of(api, "A1", "A2", "A3", "A4")
    shop = counter.shop
    path = f"{shop.path}/members/{shop.anna}"

    async def texts() -> list[str]:
        await drain(api.services.stores)
        rows = await api.owner.fetch(
            "SELECT r.customer_text FROM redemptions r JOIN pools p ON p.id = r.pool_id"
            " WHERE p.client_id = $1 AND r.customer_text IS NOT NULL", shop.client_id,
        )  # fmt: skip
        return [row["customer_text"] for row in rows]

    # The shop itself issues a code to the customer, with the member's ref, and so does another client.
    others_batch, other = await api.batch("B1")
    assert (await api.redeem(others_batch, other, "anna")).status_code == 200
    assert (await api.redeem(counter.batch, shop.client_id, "anna")).status_code == 200
    assert (await counter.buy()).status_code == 201
    assert await texts() == ["anna"]
    exported = (await api.get(path + "/export", shop.key)).json()["customer"]
    assert exported == [{"id": str(api.services.stores.identity("anna").uuid), "text": "anna"}]
    assert (await api.client.patch(path + "?dry_run=true", json={"ref": "berta"}, headers=shop.key)).status_code == 200
    assert await texts() == ["anna"]
    assert (await api.client.patch(path, json={"ref": "berta"}, headers=shop.key)).status_code == 200
    assert await texts() == []
    assert (await api.get(path + "/export", shop.key)).json()["customer"] == []
    assert (await api.redeem(counter.batch, shop.client_id, "berta")).status_code == 200
    assert await texts() == ["berta"]
    # A purchase that the worker has not recorded at the erasure.
    assert (await counter.buy()).status_code == 201
    assert (await api.client.delete(path, headers=shop.key)).status_code == 200
    assert await texts() == []
    rows = await api.owner.fetch("SELECT customer_text FROM redemptions WHERE customer_id IS NOT NULL ORDER BY 1")
    assert [row["customer_text"] for row in rows] == ["anna", None, None, None, None]


async def test_refusals_restore_the_points_or_take_none(api: Api) -> None:
    counter = await Counter.of(api, "A1", "A2", "A3", rules='{"limits": [{"max": 1, "seconds": 3600}]}', points=25)
    assert (await counter.buy()).status_code == 201
    before = await counter.shop.member()
    limited = problem(await counter.buy("key"), 403)
    assert (limited["code"], "retry_at" in limited) == ("limit_reached", True)
    # With the expiry that they had, which is not the one that points of today get.
    assert (before["available"], before["expiring"][0]["at"] is None) == (15, False)
    assert await counter.shop.member() == before
    patched = await api.client.patch(
        f"{counter.shop.path}/rewards/{counter.reward}", json={"cost": 16}, headers=counter.shop.key
    )
    assert patched.json()["cost"] == 16
    poor = problem(await counter.buy(), 403)
    assert (poor["code"], poor["available"], poor["required"]) == ("insufficient_points", 15, 16)
    ended = {"ends_at": "2020-01-01T00:00:00Z"}
    await api.client.patch(f"{counter.shop.path}/rewards/{counter.reward}", json=ended, headers=counter.shop.key)
    assert problem(await counter.buy(), 409)["code"] == "reward_unavailable"
    assert [one["state"] for one in await counter.purchases()] == ["undone", "done"]
    tried = await counter.shop.post("purchases?dry_run=true", {"reward": counter.reward})
    assert problem(tried, 409)["code"] == "reward_unavailable"


async def begin(api: Api, counter: Counter) -> PurchaseAttempt:
    """Take the first step of a purchase only, as a process does that is killed behind it."""
    stores = api.services.stores
    program = UUID(counter.shop.path.rpartition("/")[2])
    reward = await find_reward(stores.postgres, program, UUID(counter.reward))
    account = await api.owner.fetchval("SELECT id FROM accounts WHERE member_id = $1", UUID(counter.shop.anna))
    new = NewPurchase(account, reward, counter.shop.client_id, stores.identity("anna"))
    attempt = await api.services.purchases._debit(new)
    assert attempt is not None
    assert not isinstance(attempt, Refusal)
    return attempt


async def settled(api: Api, attempt: PurchaseAttempt) -> Any:
    """End the lease of an attempt, and wait until the background task has settled the move."""
    await api.owner.execute(END_LEASES)
    async with asyncio.timeout(60):
        while True:
            move = await api.owner.fetchrow("SELECT state, code FROM moves WHERE id = $1", attempt.move_id)
            assert move is not None
            if move["state"] != "debited":
                return tuple(move)
            await asyncio.sleep(0.02)


@pytest.mark.own_app
@pytest.mark.long
async def test_a_purchase_that_is_left_halfway_is_done_with_the_code_it_has(api: Api) -> None:
    counter = await Counter.of(api, *(f"A{n}" for n in range(1, 9)))
    purchases = api.services.purchases
    assert await settled(api, await begin(api, counter)) == ("done", "A1")

    granted = await begin(api, counter)
    assert (await purchases._ask(granted)).code == "A2"
    assert await settled(api, granted) == ("done", "A2")

    # Later than Redis keeps an answer: the code is in the ledger, or still in the backlog.
    for recorded in (True, False):
        late = await begin(api, counter)
        code = (await purchases._ask(late)).code
        if recorded:
            await drain(api.services.stores)
        await forget_answers(api)
        await api.owner.execute(AGE)
        assert await settled(api, late) == ("done", code)
    await drain(api.services.stores)
    assert await api.owner.fetchval("SELECT count(*) FROM redemptions") == 4
    assert await counter.available() == 60
    left = "SELECT count(*) FROM purchases WHERE customer_id IS NOT NULL OR attempt_until IS NOT NULL"
    assert await api.owner.fetchval(left) == 0


async def forget_answers(api: Api) -> None:
    """Remove what Redis keeps for Idempotency-Keys, as it does by itself a day later."""
    client = api.services.stores.redis.client
    async for key in client.scan_iter(match="issuer:{p*}:i*"):
        await client.delete(key)


@pytest.mark.own_app
async def test_only_the_latest_attempt_may_undo(api: Api) -> None:
    counter = await Counter.of(api, "A1")
    purchases = api.services.purchases
    first = await begin(api, counter)
    await api.owner.execute("UPDATE purchases SET attempt = 2, attempt_until = now() + interval '1 hour'")
    await purchases._settle(first, Answer(Outcome.SOLD_OUT))
    assert await counter.available() == 90
    # An attempt behind its lease does not ask any more.
    late = PurchaseAttempt(**{name: getattr(first, name) for name in PurchaseAttempt.__slots__} | {"give_up_at": 0.0})
    assert (await purchases._ask(late)).outcome is Outcome.NOT_READY
    # An unknown outcome settles nothing; a code that turns up does, whichever attempt brings it, and once.
    await purchases._settle(first, Answer(Outcome.NOT_READY))
    await purchases._settle(first, Answer(Outcome.GRANTED, "A1"))
    await purchases._settle(first, Answer(Outcome.SOLD_OUT))
    assert [(one["state"], one["code"]) for one in await counter.purchases()] == [("done", "A1")]
    assert await counter.available() == 90


async def test_requests_with_one_key_buy_once(api: Api) -> None:
    counter = await Counter.of(api, *(f"A{n}" for n in range(20)))
    answers = await asyncio.gather(*(counter.buy("one") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["code"] for answer in answers}) == 1
    assert await counter.available() == 90


@pytest.mark.own_app
async def test_reconciliation_finds_moves_that_do_not_hold(api: Api, stores: GuardedStores) -> None:
    counter = await Counter.of(api, "A1", "A2")
    assert (await counter.buy()).status_code == 201
    # Its event is in the stream, then in the ledger.
    for _ in range(2):
        assert await find_wrong_moves(stores) == []
        await drain(stores)
    for damage, repair, problem_ in (
        ("UPDATE moves SET points = points + 1", "UPDATE moves SET points = points - 1", "its entries debit 10"),
        (
            "UPDATE moves SET state = 'undone'",
            "UPDATE moves SET state = 'done'",
            "its entries restore 0; it is undone, but the code A1 was issued for it",
        ),
        (
            "UPDATE moves SET code = 'A2'",
            "UPDATE moves SET code = 'A1'",
            "it is done, but its code is neither in the ledger nor on its way there",
        ),
    ):
        await api.owner.execute(damage)
        assert "; ".join(one.problem for one in await find_wrong_moves(stores)) == problem_
        await api.owner.execute(repair)
    # What a lost Redis had issued without a record is quarantined. It is not released: the member has the code.
    await api.owner.execute("UPDATE moves SET code = 'A2'")
    await api.owner.execute("INSERT INTO quarantined (pool_id, seq, epoch) SELECT pool_id, 2, 1 FROM redemptions")
    assert await find_wrong_moves(stores) == []
    await api.owner.execute("INSERT INTO quarantined (pool_id, seq, epoch) SELECT pool_id, 1, 1 FROM redemptions")
    assert await release(stores, counter.batch, actor="test") == 1
    assert await api.owner.fetchval("SELECT seq FROM quarantined WHERE released_at IS NULL") == 2

"""Transfers between members and merges of members: what moves, what stays, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from issuer.loyalty.account import open_account
from issuer.loyalty.operations import Adjust, Earn, Operation, PlaceHold, ReleaseHold
from issuer.loyalty.outcome import Refusal
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from tests.support.api import Api, problem
from tests.support.loyalty import ONE_FOR_ONE, LoyaltyShop

pytestmark = pytest.mark.shared_app

CARD = """
INSERT INTO cards (number, program_id, account_id, run_id)
SELECT 'ANNA', program_id, id, gen_random_uuid() FROM accounts WHERE id = $1"""
EXPIRING = ONE_FOR_ONE | {"expiry": {"days": 30}}


async def account_of(api: Api, member: str) -> int:
    found = await api.owner.fetchval("SELECT id FROM accounts WHERE member_id = $1 ORDER BY id LIMIT 1", UUID(member))
    assert isinstance(found, int)
    return found


async def do(api: Api, member: str, *operations: Operation) -> None:
    for operation in operations:
        outcome = await api.services.loyalty.execute(await account_of(api, member), operation)
        assert not isinstance(outcome, Refusal), outcome


async def sums(api: Api) -> int:
    return int(await api.owner.fetchval("SELECT sum(available + held - debt) FROM accounts"))


async def test_a_transfer_keeps_the_expiry_and_conserves_the_sum(api: Api) -> None:
    shop = await LoyaltyShop.of(api, terms=EXPIRING)
    berta = (await shop.join(ref="berta"))["id"]
    await do(api, shop.anna, Adjust(100, "test"))
    expiring = (await shop.member())["expiring"]
    body = {"from": "anna", "to": berta, "points": 30, "reason": "a gift"}
    tried = await shop.program_post("transfers?dry_run=true", body)
    assert (tried.status_code, (await shop.member(berta))["available"]) == (201, 0)
    first = await shop.program_post("transfers", body, **{"Idempotency-Key": "one"})
    assert first.status_code == 201, first.text
    again = await shop.program_post("transfers", body, **{"Idempotency-Key": "one"})
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert [(await shop.member(one))["available"] for one in ("anna", berta)] == [70, 30]
    assert (await shop.member(berta))["expiring"] == [{"at": expiring[0]["at"], "points": 30}]
    assert await sums(api) == 100
    move = await api.owner.fetchrow("SELECT id::text, kind, state, points FROM moves")
    assert move is not None
    assert tuple(move) == (first.json()["id"], "transfer", "done", 30)

    poor = problem(await shop.program_post("transfers", {**body, "points": 71}), 403)
    assert (poor["code"], poor["available"]) == ("insufficient_points", 70)
    # Not while the source has debt, however little is asked for; the target's debt is paid first.
    await do(api, shop.anna, Adjust(-80, "test", allow_debt=True))
    assert problem(await shop.program_post("transfers", {**body, "points": 1}), 403)["debt"] == 10
    back = await shop.program_post("transfers", {"from": berta, "to": "anna", "points": 15})
    assert (back.json()["to"]["debt"], back.json()["to"]["available"]) == (0, 5)
    for refused, status in (({"from": "anna", "to": "anna", "points": 1}, 400), ({"from": "anna", "points": 1}, 400),
                            ({"from": "anna", "to": "unknown", "points": 1}, 404),
                            ({**body, "points": 1, "reason": "a\0b"}, 400)):  # fmt: skip
        assert (await shop.program_post("transfers", refused)).status_code == status
    assert await sums(api) == 20


async def test_a_merge_moves_everything_and_both_histories_stay(api: Api) -> None:
    shop = await LoyaltyShop.of(api, terms={**EXPIRING, "pending_days": 0})
    berta = (await shop.join(ref="berta"))["id"]
    postgres = api.services.stores.postgres
    second = await create_program(
        postgres, shop.client_id, "Beans", parse_terms(ONE_FOR_ONE, "points"), timezone="UTC", actor="test"
    )
    async with api.owner.acquire() as connection:
        beans = await open_account(connection, second, UUID(shop.anna))
    await api.services.loyalty.execute(beans, Adjust(7, "test"))
    await do(api, shop.anna, Earn(40), Adjust(60, "test"))
    await do(api, berta, Adjust(-10, "test", allow_debt=True))
    hold = PlaceHold(UUID(int=1), 5, datetime.now(UTC) + timedelta(days=1))
    await do(api, shop.anna, hold)
    held = problem(await shop.post("merge", {"into": "berta"}), 409)
    assert held["code"] == "holds_open"
    await api.services.loyalty.execute(await account_of(api, shop.anna), ReleaseHold(hold.hold_id))

    await api.owner.execute(CARD, await account_of(api, shop.anna))
    before = await sums(api)
    assert (await shop.post("merge", {"into": "berta", "reason": "a\0b"})).status_code == 400
    tried = await shop.post("merge?dry_run=true", {"into": "berta"})
    assert tried.status_code == 200, tried.text
    assert (await shop.member())["available"] == 100
    merged = await shop.post("merge", {"into": "berta", "reason": "one person"}, **{"Idempotency-Key": "m"})
    assert merged.status_code == 200, merged.text
    again = await shop.post("merge", {"into": "berta", "reason": "one person"}, **{"Idempotency-Key": "m"})
    assert again.json() == merged.json()
    # Debt first: of 100 points 10 pay what Berta owed. Anna resolves to Berta, in both programs.
    anna = await shop.member()
    assert (anna["id"], anna["available"], anna["debt"], anna["lifetime"]) == (berta, 90, 0, 40)
    assert await sums(api) == before
    in_beans = await api.owner.fetchval(
        "SELECT available FROM accounts WHERE member_id = $1 AND program_id = $2", UUID(berta), second.id
    )
    assert in_beans == 7
    kept = await api.owner.fetchval("SELECT count(*) FROM entries WHERE account_id = $1", beans)
    assert kept == 2
    card = await api.owner.fetchval("SELECT account_id FROM cards WHERE number = 'ANNA'")
    assert card == await account_of(api, berta)
    # A request that resolved the member before the merge does nothing to the closed account.
    late = await api.services.loyalty.execute(beans, Adjust(1, "late"))
    assert isinstance(late, Refusal)
    assert problem(await shop.post("merge", {"into": "anna"}, member="berta"), 409)["code"] == "members_merged"


@pytest.mark.own_app
async def test_merges_in_both_directions_at_once_make_no_cycle(api: Api) -> None:
    shop = await LoyaltyShop.of(api)
    for round_ in range(3):
        one, other = [(await shop.join(ref=f"{name}{round_}"))["id"] for name in ("a", "b")]
        for member in (one, other):
            await do(api, member, Adjust(10, "test"))
        answers = await asyncio.gather(
            shop.post("merge", {"into": other}, member=one), shop.post("merge", {"into": one}, member=other)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]
        assert {(await shop.member(member))["available"] for member in (one, other)} == {20}
    rows = await api.owner.fetch("SELECT id, merged_into FROM members WHERE merged_into IS NOT NULL")
    assert len(rows) == 3
    assert not {row["id"] for row in rows} & {row["merged_into"] for row in rows}


async def test_a_merge_waits_for_the_purchases_of_the_member(api: Api) -> None:
    shop = await LoyaltyShop.of(api)
    berta = (await shop.join(ref="berta"))["id"]
    await do(api, shop.anna, Adjust(10, "test"))
    account = await account_of(api, shop.anna)
    await api.owner.execute(
        "INSERT INTO moves (id, kind, program_id, from_account, points, reward_id, batch_id, state, seq, created_at)"
        " SELECT gen_random_uuid(), 'purchase', program_id, id, 1, gen_random_uuid(), gen_random_uuid(), 'debited', 1,"
        " now() FROM accounts WHERE id = $1", account,
    )  # fmt: skip
    waits = await shop.post("merge", {"into": berta})
    assert (problem(waits, 409)["code"], waits.headers["retry-after"]) == ("purchase_in_progress", "5")
    assert (await shop.member())["available"] == 10
    await api.owner.execute("UPDATE moves SET state = 'undone', settled_at = now()")
    assert (await shop.post("merge", {"into": berta})).status_code == 200

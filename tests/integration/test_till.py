"""The till: who may sign in, what is found, and that every form is carried out once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from issuer.access.api_keys import revoke_key
from issuer.loyalty.card_number import draw_numbers
from issuer.loyalty.member_erasure import erase_member
from issuer.loyalty.member_store import find_member
from issuer.loyalty.reward import NewReward
from issuer.loyalty.rewards import create_reward
from issuer.loyalty.staff import create_staff, disable_staff
from tests.support.api import Api
from tests.support.servers import START_LIMIT_S
from tests.support.till_pages import TillScreen, TillShop, make_till_shop, till_screen

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY_FORM: Final = "Sign this till in with its API key."
PIN_FORM: Final = "Who works here?"
SCAN: Final = "Card, e-mail, phone or number of the member"


@pytest_asyncio.fixture(loop_scope="module")
async def shop(shared_api: Api) -> TillShop:
    return await make_till_shop(shared_api, uuid4(), max_points=500)


@pytest_asyncio.fixture(loop_scope="module")
async def screen(shop: TillShop) -> AsyncIterator[TillScreen]:
    async with till_screen(shop) as opened:
        yield opened


async def entries_of(shop: TillShop, account: int) -> list[tuple[str, int, UUID | None]]:
    rows = await shop.api.owner.fetch(
        "SELECT op, points, staff_id FROM entries WHERE account_id = $1 ORDER BY seq", account
    )
    return [(row["op"], row["points"], row["staff_id"] and UUID(bytes=row["staff_id"].bytes)) for row in rows]


async def test_a_till_opens_with_its_key_and_staff_with_their_pins(shop: TillShop, screen: TillScreen) -> None:
    api, client = shop.api, shop.program.client_id
    other = await make_till_shop(api, uuid4())
    wrong = [await api.key("admin", client_id=client), await api.key("redeem"), api.admin]
    wrong += [await api.key("redeem", "admin", client_id=client), {"Authorization": other.key}, {"Authorization": ""}]
    await screen.open()
    for key in wrong:
        await screen.send("/sign-in", key=key["Authorization"].removeprefix("Bearer "))
        assert (screen.status, KEY_FORM in screen.text) == (403, True)
        assert key["Authorization"][7:] not in screen.html or not key["Authorization"]
    # A form that this browser was not given.
    await screen.send("/sign-in", hidden={}, key=shop.key)
    assert screen.status == 403

    await screen.open()
    await screen.send("/sign-in", key=shop.key)
    assert PIN_FORM in screen.text
    assert "Anna" in screen.text
    await screen.open("/accounts/1")
    assert PIN_FORM in screen.text, "nothing without a member of staff"
    for pin, name in (("000000x", None), (other.pin, other.staff_id), ("", None), (shop.pin, uuid4())):
        await screen.enter_pin(pin=pin, name=name)
        assert (screen.status, "That is not the PIN." in screen.text) == (403, True)
    await screen.enter_pin()
    assert SCAN in screen.text

    # The session is for this program alone.
    async with till_screen(other) as elsewhere:
        elsewhere.http.cookies = screen.http.cookies
        await elsewhere.open()
        assert KEY_FORM in elsewhere.text

    await screen.send("/leave")
    assert PIN_FORM in screen.text
    await screen.enter_pin()
    await disable_staff(api.owner, shop.program.id, "Anna", actor="test")
    await screen.open()
    assert "No staff works in this program yet" in screen.text
    (row,) = await api.owner.fetch("SELECT id FROM api_keys WHERE client_id = $1 AND scopes = '{redeem}'", client)
    await revoke_key(api.owner, row["id"], actor="test")
    async with asyncio.timeout(START_LIMIT_S):
        while KEY_FORM not in screen.text:
            await screen.open()
    shop.key = (await api.key("redeem", client_id=client))["Authorization"].removeprefix("Bearer ")
    await screen.send("/sign-in", key=shop.key)
    assert "No staff works in this program yet" in screen.text


async def test_a_link_on_another_site_signs_no_till_out(shop: TillShop) -> None:
    """A browser sends the cookie of a till with no such request: a new one would take its place."""
    path, crossed = f"/till/{shop.program.id}", {"sec-fetch-site": "cross-site"}
    linked = await shop.api.client.get(path, headers=crossed)
    assert (linked.status_code, linked.headers.get_list("set-cookie")) == (200, [])
    assert linked.headers["refresh"] == f"0; url={path}?again"
    forged = await shop.api.client.post(f"{path}/sign-in", headers=crossed)
    assert (forged.status_code, forged.headers.get_list("set-cookie")) == (403, [])


async def test_a_member_is_found_by_what_is_typed(shop: TillShop, screen: TillScreen) -> None:
    anna = await shop.member(email="Anna@Example.org", ref="M-1", phone="+44 20 7946 0958", name="Anna B.")
    gone = await shop.member(email="gone@example.org", ref="M-2")
    elsewhere = await make_till_shop(shop.api, uuid4())
    await elsewhere.member(email="other@example.org", ref="M-3")
    await erase_member(shop.api.owner, (await find_member(shop.api.owner, shop.program, "M-2")).member, actor="test")
    await screen.sign_in()
    for typed in ("anna@example.org", "M-1", "+442079460958", " 0044 20 7946 0958 "):
        await screen.send("/find", q=typed)
        assert screen.path == f"/accounts/{anna}", typed
        assert "Anna B." in screen.text
        await screen.open()
    for typed in ("M-2", "gone@example.org", "other@example.org", "M-3", "M-1\0", "x" * 5_000, "@"):
        await screen.send("/find", q=typed)
        assert (screen.status, "There is no member or card with this." in screen.text) == (404, True), typed
    for account in (gone, await elsewhere.member(name="B"), 2**62, 2**80):
        await screen.open(f"/accounts/{account}")
        assert screen.status == 404


async def test_a_reward_is_taken_once_and_its_code_is_shown(shop: TillShop, screen: TillScreen) -> None:
    api, client = shop.api, shop.program.client_id
    account = await shop.member(ref="M-1")
    at = f"/accounts/{account}"
    batch, _ = await api.batch("TEA-1", "TEA-2", client=client)
    reward = await create_reward(api.owner, shop.program.id, NewReward("Cup of tea", 30, batch), actor="test")
    await screen.sign_in()
    await screen.open(at)
    assert re.search(r"<button[^>]*disabled[^>]*>\s*Cup of tea: 30 points", screen.html)
    await screen.send(f"{at}/reward", reward=str(reward.id))
    assert (screen.status, "There are not enough points." in screen.text) == (409, True)
    await screen.send(f"{at}/earn", amount="100")
    form = screen.hidden
    for _ in range(2):
        await screen.send(f"{at}/reward", hidden=form, reward=str(reward.id))
        assert (screen.status, screen.html.count('class="code"'), "TEA-1" in screen.text) == (200, 1, True)
    await screen.send(f"{at}/reward", reward=str(reward.id))
    await screen.send(f"{at}/reward", reward=str(reward.id))
    assert (screen.status, "The reward is sold out." in screen.text) == (409, True)
    assert "40 points" in screen.text, "of the third one the points are restored"
    assert screen.html.count(">Undo<") == 1, "the earn; a code that was issued cannot be taken back"
    await screen.send(f"{at}/reward", reward=str(uuid4()))
    assert screen.status == 409


_CARD: Final = "INSERT INTO cards (number, program_id, account_id, run_id) VALUES ($1, $2, $3, gen_random_uuid())"


async def test_a_card_is_scanned_until_it_is_revoked(shop: TillShop, screen: TillScreen) -> None:
    account = await shop.member(ref="M-1", name="Anna")
    owner, (card, blank) = shop.api.owner, draw_numbers(2)
    for number, of in ((card, account), (blank, None)):
        await owner.execute(_CARD, number, shop.program.id, of)
    await screen.sign_in()
    for typed in (card, card.lower(), f" {card[:4]}-{card[4:]}"):
        await screen.send("/find", q=typed)
        assert screen.path == f"/accounts/{account}", typed
        await screen.open()
    await owner.execute("UPDATE cards SET revoked_at = now() WHERE number = $1", card)
    for typed in (card, blank):
        await screen.send("/find", q=typed)
        assert screen.status == 404


async def test_a_form_is_carried_out_once_however_often_it_is_sent(shop: TillShop, screen: TillScreen) -> None:
    account = await shop.member(ref="M-1")
    at = f"/accounts/{account}"
    await screen.sign_in()
    await screen.open(at)
    form = screen.hidden
    for _ in range(2):
        await screen.send(f"{at}/earn", hidden=form, amount="120,99")
        assert (screen.status, screen.path) == (200, at)
    # Twice at once, as a double click does.
    twice = screen.hidden
    data = twice | {"points": "50"}
    answers = await asyncio.gather(*(screen.http.post(f"{shop.path}{at}/spend", data=data) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    # An old page of the history, with another amount.
    await screen.send(f"{at}/earn", hidden=form, amount="1")
    assert screen.status == 409
    assert "Please look at the account and try again." in screen.text
    assert await entries_of(shop, account) == [("earn", 120, shop.staff_id), ("spend", 50, shop.staff_id)]
    assert "70 points" in screen.text
    keys = await shop.api.owner.fetch("SELECT api_key_id, key_hash FROM entries WHERE account_id = $1", account)
    assert all(row["api_key_id"] is not None and row["key_hash"] is not None for row in keys)


async def test_what_is_no_amount_or_too_much_changes_nothing(shop: TillShop, screen: TillScreen) -> None:
    account = await shop.member(ref="M-1")
    at = f"/accounts/{account}"
    await screen.sign_in()
    await screen.open(at)
    # A scanner may type a card into the field of the amount.
    for amount in ("", "0", "-5", "1.234,50", "1,234", "ABCD-EFGH-JKMN", "12345678", "1e3", "١", "5 EUR"):
        await screen.send(f"{at}/earn", amount=amount)
        assert (screen.status, "Type an amount such as 12.50" in screen.text) == (409, True), amount
    await screen.send(f"{at}/earn", amount="501")
    assert "This is more than you may book at once." in screen.text
    await screen.send(f"{at}/earn", amount="500.99")
    assert "500 points" in screen.text
    await screen.send(f"{at}/spend", points="501")
    assert "This is more than you may book at once." in screen.text
    await screen.send(f"{at}/spend", points="500")
    await screen.send(f"{at}/spend", points="1")
    assert (screen.status, "There are not enough points." in screen.text) == (409, True)
    await screen.send(f"{at}/spend", hidden={"form_token": screen.hidden["form_token"]}, points="1")
    assert screen.status == 409, "a form without its key is not carried out"
    assert [op for op, _, _ in await entries_of(shop, account)] == ["earn", "spend"]


async def test_staff_undo_their_own_entries_for_a_minute(shop: TillShop, screen: TillScreen) -> None:
    owner, account = shop.api.owner, await shop.member(ref="M-1")
    at = f"/accounts/{account}"
    bea, pin = await create_staff(owner, shop.program.id, "Bea", actor="test")
    await screen.sign_in()
    await screen.open(at)
    await screen.send(f"{at}/earn", amount="100")
    await screen.send(f"{at}/spend", points="30")
    assert screen.html.count(">Undo<") == 2
    undo = screen.hidden
    for _ in range(2):
        await screen.send(f"{at}/undo", hidden=undo, seq="2")
        assert (screen.status, "100 points" in screen.text) == (200, True), "a repeat is no error"
    await screen.send("/leave")
    await screen.enter_pin(name=bea.id, pin=pin)
    await screen.open(at)
    assert screen.html.count(">Undo<") == 0
    await screen.send(f"{at}/undo", seq="1")
    assert (screen.status, "It is too late to undo this." in screen.text) == (409, True)
    await screen.send("/leave")
    await screen.enter_pin()
    await screen.open(at)
    assert screen.html.count(">Undo<") == 1
    await owner.execute(
        "UPDATE entries SET occurred_at = occurred_at - $2::interval WHERE account_id = $1", account,
        timedelta(minutes=1),
    )  # fmt: skip
    await screen.send(f"{at}/undo", seq="1")
    assert (screen.status, ">Undo<" in screen.html) == (409, False)
    assert [op for op, _, _ in await entries_of(shop, account)] == ["earn", "spend", "undo"]

    await screen.open("/day")
    assert "earned 1 100 points" in screen.text
    assert "spent 1 30 points" in screen.text
    await screen.open("/day?day=1999-01-01")
    assert screen.status == 200

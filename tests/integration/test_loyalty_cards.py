"""Cards over HTTP: issued, assigned, found, revoked, replaced, printed; gift cards with their value."""

from __future__ import annotations

import asyncio
import io
import zipfile
from typing import Any

import orjson
import pytest

from issuer.loyalty import cards as cards_module
from issuer.loyalty.card_number import draw_numbers, show_number
from issuer.settings import Settings
from tests.support.api import Api, problem, running_app
from tests.support.loyalty import LoyaltyShop
from tests.support.member_pages import FORM_TOKEN, PageBrowser
from tests.support.printed_cards import count_pages, read_cards
from tests.support.wallet_keys import WalletKeys

pytestmark = pytest.mark.shared_app


async def issue(shop: LoyaltyShop, **body: Any) -> list[str]:
    """Issue cards; return their numbers."""
    response = await shop.program_post("cards", body)
    assert response.status_code == 201, response.text
    return [card["number"] for card in response.json()["items"]]


async def show(shop: LoyaltyShop, number: str) -> dict[str, Any]:
    response = await shop.api.get(f"{shop.path}/cards/{number}", shop.key)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_card_leads_to_its_member_until_it_is_revoked(api: Api) -> None:
    shop = await LoyaltyShop.of(api)
    await shop.adjust(70)
    first, second = await issue(shop, count=2)
    assert (await show(shop, first))["state"] == "blank"
    assert problem(await shop.program_post(f"cards/{first}/spend", {"amount": 1}), 409)["code"] == "card_blank"
    for _ in range(2):
        assigned = (await shop.program_post(f"cards/{first}/assign", {"member": "anna"})).json()
    assert (assigned["state"], assigned["member_id"]) == ("assigned", shop.anna)
    (own,) = await issue(shop, member="anna")
    # Typed without hyphens, in lower case and with spaces.
    typed = first.replace("-", " ").lower()
    assert (await show(shop, typed))["balance"]["available"] == 70
    assert (await shop.member())["cards"] == [first, own]
    (found,) = (await api.get(f"{shop.path}/members?card={typed}", shop.key)).json()["items"]
    assert found["id"] == shop.anna
    spent = (await shop.program_post(f"cards/{typed}/spend", {"amount": 20})).json()
    assert spent["balance"]["available"] == 50

    berta = (await shop.join(ref="berta"))["id"]
    assert problem(await shop.program_post(f"cards/{first}/assign", {"member": berta}), 409)["code"] == "card_taken"
    revoked = (await shop.program_post(f"cards/{first}/revoke")).json()
    assert (await shop.program_post(f"cards/{first}/revoke")).json() == revoked
    for answer in (
        await api.get(f"{shop.path}/cards/{first}", shop.key),
        await shop.program_post(f"cards/{first}/spend", {"amount": 1}),
        await shop.program_post(f"cards/{first}/assign", {"member": berta}),
        await shop.program_post(f"cards/{first}/replace"),
    ):
        assert problem(answer, 410)["code"] == "card_revoked"
    assert (await api.get(f"{shop.path}/members?card={first}", shop.key)).json()["items"] == []
    replaced = (await shop.program_post(f"cards/{own}/replace")).json()
    assert (await show(shop, replaced["number"]))["member_id"] == shop.anna
    assert (await shop.member())["cards"] == [replaced["number"]]
    assert problem(await shop.program_post(f"cards/{second}/replace"), 409)["code"] == "card_blank"

    # A card of a member that was merged leads to its target.
    merged = await shop.program_post("members/anna/merge", {"into": berta})
    assert merged.status_code in (200, 201), merged.text
    assert [(await show(shop, replaced["number"]))[name] for name in ("member_id", "state")] == [berta, "assigned"]
    assert (await show(shop, replaced["number"]))["balance"]["available"] == 50
    (listed,) = (await api.get(f"{shop.path}/cards?member=berta&limit=1", shop.key)).json()["items"]
    assert listed["number"] == first

    wrong = show_number(draw_numbers(1)[0])
    for number in (wrong, wrong[:-1] + ("2" if wrong[-1] != "2" else "3"), "x" * 200, "%00"):
        assert problem(await api.get(f"{shop.path}/cards/{number}", shop.key), 404)["code"] == "card_not_found"
    other = await LoyaltyShop.of(api)
    assert problem(await api.get(f"{other.path}/cards/{second}", other.key), 404)["code"] == "card_not_found"
    # An erasure deletes the cards; the audit log has no number.
    await api.client.delete(f"{shop.path}/members/berta", headers=shop.key)
    assert problem(await api.get(f"{shop.path}/cards/{replaced['number']}", shop.key), 404)
    audit = str(await api.owner.fetch("SELECT * FROM audit_log"))
    assert "card.revoke" in audit
    assert [number for number in (first, own, first.replace("-", ""), own.replace("-", "")) if number in audit] == []


@pytest.mark.own_app
async def test_cards_are_issued_once_listed_and_printed_with_their_run(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await LoyaltyShop.of(api)
    key = {"Idempotency-Key": "run"}
    run = (await shop.program_post("cards", {"count": 1_000}, **key)).json()
    repeated = await shop.program_post("cards", {"count": 1_000}, **key)
    assert (repeated.json(), repeated.headers["idempotency-replayed"]) == (run, "true")
    assert len({card["number"] for card in run["items"]}) == 1_000
    for count in (0, 1_001, True, "5"):
        assert problem(await shop.program_post("cards", {"count": count}), 400)
    tried = await shop.program_post("cards?dry_run=true", {"count": 3})
    assert (tried.status_code, len(tried.json()["items"])) == (201, 3)
    assert await api.owner.fetchval("SELECT count(*) FROM cards") == 1_000

    # A number that is taken is drawn again.
    taken, (first, second) = run["items"][0]["number"].replace("-", ""), draw_numbers(2)
    drawn = iter([[taken, first], [second]])
    monkeypatch.setattr(cards_module, "draw_numbers", lambda _: next(drawn))
    few = (await shop.program_post("cards", {"count": 2})).json()
    assert [card["number"] for card in few["items"]] == [show_number(first), show_number(second)]

    listed = await api.get(f"{shop.path}/cards?run_id={run['run_id']}&limit=999", shop.key)
    rest = await api.get(f"{shop.path}/cards?run_id={run['run_id']}&cursor={listed.json()['next_cursor']}", shop.key)
    assert listed.json()["items"] + rest.json()["items"] == run["items"]
    assert (await api.get(f"{shop.path}/cards?member=anna", shop.key)).json()["items"] == []

    assert (await shop.program_post(f"cards/{first}/revoke")).status_code == 200
    printed = await api.get(f"{shop.path}/cards.pdf?run_id={few['run_id']}", shop.key)
    assert printed.headers["content-type"] == "application/pdf"
    assert count_pages(printed.content) == 1
    assert read_cards(printed.content, 0) == {"QR Code": [second], "Code 128": [second]}
    for query in ("", f"?run_id={few['run_id']}&number={taken}"):
        assert "give run_id" in problem(await api.get(f"{shop.path}/cards.pdf{query}", shop.key), 400)["error"]
    other = await LoyaltyShop.of(api)
    assert problem(await api.get(f"{other.path}/cards.pdf?run_id={run['run_id']}", other.key), 404)

    monkeypatch.setattr("issuer.loyalty.card_printing.EXTRA", ("reportlab", "not_installed_here"))
    missing = problem(await api.get(f"{shop.path}/cards.pdf?number={taken}", shop.key), 501)
    assert missing["code"] == "extra_missing"
    assert "issuer[cards]" in missing["error"]


async def test_a_gift_card_is_sold_spent_refunded_and_topped_up(api: Api) -> None:
    shop = await LoyaltyShop.of(api, unit="EUR", terms={})
    key = {"Idempotency-Key": "sold"}
    sold = await shop.program_post("cards", {"count": 2, "amount": "25.00"}, **key)
    assert (await shop.program_post("cards", {"count": 2, "amount": "25.00"}, **key)).json() == sold.json()
    card, second = (card["number"] for card in sold.json()["items"])
    shown = await show(shop, card)
    assert (shown["state"], shown["member_id"], shown["balance"]["available"]) == ("gift", None, "25.00")
    path = f"cards/{card}"
    # Of thirty that spend at once, as many are granted as there is value for.
    spends = await asyncio.gather(*(shop.program_post(f"{path}/spend", {"amount": "1.50"}) for _ in range(30)))
    granted = [answer.json()["entry"] for answer in spends if answer.status_code == 201]
    assert (len(granted), (await show(shop, card))["balance"]["available"]) == (16, "1.00")
    refused = problem(next(answer for answer in spends if answer.status_code != 201), 403)
    assert (refused["code"], refused["available"], refused["required"]) == ("insufficient_points", "1.00", "1.50")

    entry = granted[0]["id"]
    part = await shop.program_post(f"{path}/refund", {"entry": entry, "amount": "0.50", "reason": "one cup"})
    assert part.json()["balance"]["available"] == "1.50"
    rest = await shop.program_post(f"{path}/refund", {"entry": entry})
    assert rest.json()["balance"]["available"] == "2.50"
    assert problem(await shop.program_post(f"{path}/refund", {"entry": entry}), 409)["code"] == "already_reversed"
    for wrong in ("7-7-7", "x", f"{entry}9999999999999999999", entry.replace("-", "-0x"), "1-²"):
        assert problem(await shop.program_post(f"{path}/refund", {"entry": wrong}), 404)["code"] == "entry_not_found"
    # An entry of another card is none of this one.
    other = f"{(await shop.program_post(f'cards/{second}/spend', {'amount': '1.00'})).json()['entry']['id']}"
    assert problem(await shop.program_post(f"{path}/refund", {"entry": other}), 404)["code"] == "entry_not_found"

    topped = await shop.program_post(f"{path}/top-up", {"amount": "10.00"}, **{"Idempotency-Key": "top"})
    again = await shop.program_post(f"{path}/top-up", {"amount": "10.00"}, **{"Idempotency-Key": "top"})
    assert (topped.json(), topped.json()["balance"]["available"]) == (again.json(), "12.50")
    for amount in ("0", "-1.00", "1.001", "1e3", None, True, 0.1 + 0.2):
        assert problem(await shop.program_post(f"{path}/top-up", {"amount": amount}), 400)["code"] == "invalid_amount"
    # A lost card: its value is that of the next one.
    new = (await shop.program_post(f"{path}/replace")).json()["number"]
    assert (await show(shop, new))["balance"]["available"] == "12.50"
    assert problem(await shop.program_post(f"{path}/spend", {"amount": "1.00"}), 410)
    empty = (await issue(shop))[0]
    assert (await show(shop, empty))["balance"]["available"] == "0.00"
    for body in ({"member": "anna", "amount": "5.00"}, {"amount": "5.001"}):
        assert problem(await shop.program_post("cards", body), 400)


@pytest.mark.own_app
async def test_a_value_that_the_terms_refuse_issues_nothing(api: Api) -> None:
    shop = await LoyaltyShop.of(api, unit="EUR", terms={"max_balance": 5_000})
    refused = problem(await shop.program_post("cards", {"count": 3, "amount": "50.01"}), 403)
    assert refused["code"] == "limit_reached"
    assert await api.owner.fetchval("SELECT count(*) FROM cards") == 0
    assert await api.owner.fetchval("SELECT count(*) FROM accounts WHERE member_id IS NULL") == 0
    points = await LoyaltyShop.of(api)
    assert problem(await points.program_post("cards", {"amount": 5}), 400)


async def test_unknown_numbers_are_failed_lookups(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"failed_lookup_limit": "10/h"})) as api:
        shop = await LoyaltyShop.of(api)
        (card,) = await issue(shop, member="anna")
        numbers = [show_number(number) for number in draw_numbers(12)]
        shown = [(await api.get(f"{shop.path}/cards/{number}", shop.key)).status_code for number in numbers[:6]]
        revoked = [(await shop.program_post(f"cards/{number}/revoke")).status_code for number in numbers[6:]]
        assert shown + revoked == [404] * 10 + [429] * 2
        for refused in (
            await shop.program_post(f"cards/{card}/spend", {"amount": 1}),
            await shop.program_post(f"cards/{card}/revoke"),
        ):
            assert problem(refused, 429)["code"] == "too_many_failed_lookups"


async def test_the_balance_page_shows_gift_cards_and_nothing_else(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"failed_lookup_limit": "4/h"})) as api:
        shop = await LoyaltyShop.of(api, unit="EUR", terms={})
        gift, revoked = await issue(shop, count=2, amount="1234.50")
        (own,) = await issue(shop, member="anna")
        await shop.program_post(f"cards/{revoked}/revoke")
        root = f"/g/{shop.path.rpartition('/')[2]}"
        browser = PageBrowser(api.client, root, {"accept": "text/html", "accept-language": "de"})
        assert "Nummer Ihrer Geschenkkarte ein" in await browser.open()
        shown = await browser.send("", number=gift.lower().replace("-", " "))
        assert "1.234,50" in shown
        assert "Guthaben der Geschenkkarte" in shown
        assert browser.page.headers["cache-control"] == "no-store"
        # Unknown, revoked and a member's are one answer, which does not repeat what was typed.
        answers = set()
        for number in (show_number(draw_numbers(1)[0]), revoked, own, "x"):
            await browser.open()
            text = await browser.send("", number=number)
            answers.add((browser.page.status_code, FORM_TOKEN.sub("", text)))
            assert number not in text or number == "x"
        assert [status for status, _ in answers] == [404]
        # Beyond the limit a right number is not answered either.
        for number in ("y", gift):
            await browser.open()
            await browser.send("", number=number)
            assert browser.page.status_code == 429
        # Neither is a form of another site, or one without its token.
        other = PageBrowser(api.client, root, {"accept": "text/html", "accept-language": "en"})
        assert "Enter the number of your gift card" in await other.open()
        for headers, fields in (({"sec-fetch-site": "cross-site"}, {}), ({}, {"form_token": "0" * 64})):
            other.headers = {"accept": "text/html", **headers}
            await other.send("", number=gift, **fields)
            assert other.page.status_code == 403
            other.headers = {"accept": "text/html"}
            await other.open()
        points = await LoyaltyShop.of(api)
        for path in (f"/g/{points.path.rpartition('/')[2]}", "/g/x", f"/g/{draw_numbers(1)[0]}"):
            assert (await api.client.get(path, headers={"accept": "text/html"})).status_code == 404


async def test_a_card_is_made_for_the_wallets_that_are_configured(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = WalletKeys.make(tmp_path_factory.mktemp("wallets"))
    async with running_app(settings.model_copy(update=keys.settings)) as api:
        shop = await LoyaltyShop.of(api, unit="EUR", terms={})
        (card,) = await issue(shop, amount="9.90")
        made = await api.get(f"{shop.path}/cards/{card}/apple.pkpass", shop.key)
        assert made.headers["content-type"] == "application/vnd.apple.pkpass"
        with zipfile.ZipFile(io.BytesIO(made.content)) as archive:
            shown = orjson.loads(archive.read("pass.json"))
        assert (shown["serialNumber"], shown["storeCard"]["primaryFields"][0]["value"]) == (card.replace("-", ""), 9.9)
        url = (await api.get(f"{shop.path}/cards/{card}/google", shop.key)).json()["url"]
        assert url.startswith("https://pay.google.com/gp/v/save/")
    async with running_app(settings) as api:
        for wallet, setting in (("apple.pkpass", "ISSUER_APPLE_PASS_CERTIFICATE"), ("google", "ISSUER_GOOGLE_WALLET")):
            missing = problem(await api.get(f"{shop.path}/cards/{card}/{wallet}", shop.key), 404)
            assert (missing["code"], setting in missing["detail"]) == ("wallet_not_configured", True)

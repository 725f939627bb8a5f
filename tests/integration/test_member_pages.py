"""The pages of members: joining, signing in by code and by link, points, own data, and what strangers see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import pytest_asyncio
from pydantic import SecretStr

from issuer.loyalty.card_number import draw_numbers, show_number
from issuer.loyalty.member_store import create_member, find_member
from issuer.loyalty.operations import Adjust
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import change_program, create_program
from issuer.loyalty.reward import NewReward
from issuer.loyalty.rewards import create_reward
from issuer.loyalty.terms import parse_terms
from issuer.settings import Settings
from tests.support.api import Api
from tests.support.mail_server import TestMailServer
from tests.support.member_pages import PageBrowser, code_in, last_mail, link_in

ANN = "Ann@Shop.example"


@pytest.fixture
def mails() -> Iterator[TestMailServer]:
    with TestMailServer() as server:
        yield server


@pytest.fixture
def settings(settings: Settings, mails: TestMailServer) -> Settings:
    return settings.model_copy(
        update={
            "smtp_url": SecretStr(f"smtp://127.0.0.1:{mails.port}"),
            "mail_from": "Café <points@shop.example>",
            "public_url": "https://points.shop.example",
        }
    )


@dataclass(slots=True)
class MemberSite:
    """The application with one program, and browsers at its pages."""

    api: Api
    program: Program
    mails: TestMailServer

    def browser(self, **headers: str) -> PageBrowser:
        return PageBrowser(self.api.client, f"/l/{self.program.id}", headers)

    async def mailed(self) -> None:
        """Wait until all messages are sent."""
        assert self.api.services.mailer is not None
        await self.api.services.mailer.settled()

    async def sign_in(self, email: str = ANN, **headers: str) -> PageBrowser:
        browser = self.browser(**headers)
        await browser.open()
        await browser.send("/sign-in", email=email)
        await self.mailed()
        await browser.send("/code", code=code_in(last_mail(self.mails, email)))
        return browser


@pytest_asyncio.fixture
async def site(api: Api, mails: TestMailServer) -> MemberSite:
    program = await create_program(
        api.owner, uuid4(), "Café Blau", parse_terms({"expiry": {"days": 30}}, "points"), actor="test"
    )
    return MemberSite(api, program, mails)


async def test_a_visitor_joins_with_a_code_and_finds_points_history_and_data(site: MemberSite) -> None:
    browser = site.browser(**{"accept-language": "de"})
    assert "Neu hier?" in await browser.open()
    assert "wie anna@example.org ein" in await browser.send("/sign-in", email="ann@")
    assert browser.page.status_code == 422
    assert ANN in await browser.send("/sign-in", email=f" {ANN} ")
    await site.mailed()
    message = last_mail(site.mails, ANN)
    assert (message["Content-Language"], message["From"]) == ("de", "Café <points@shop.example>")
    assert await site.api.owner.fetchval("SELECT count(*) FROM members") == 0
    before = dict(browser.cookies)
    assert "nicht gültig" in await browser.send("/code", code="x")
    assert "Willkommen!" in await browser.send("/code", code=code_in(message))
    # A new token after the login: one that was planted before is of no use.
    (name,) = (name for name in before if "member" in name)
    assert name.startswith("__Host-member-")
    assert browser.cookies[name] != before[name]
    member = await site.api.owner.fetchrow("SELECT * FROM members")
    assert member is not None
    assert (member["email"], member["locale"], member["marketing"]) == (ANN, "de", False)
    page = await browser.open()
    assert "Willkommen!" not in page
    assert "Noch nichts." in page

    found = await find_member(site.api.owner, site.program, str(member["id"]))
    for points in range(1_001, 1_031):
        await site.api.services.loyalty.execute(found.account_id, Adjust(points, "gift"))
    page = await browser.open()
    assert "30.465" in page
    assert "danach verfallen sie" in page
    assert page.count("<li>") == 5
    assert (await browser.open("/history")).count("<li>") == 25
    older = browser.page.text.partition("/history?")[2].partition('"')[0]
    assert (await browser.open(f"/history?{older}")).count("<li>") == 5

    await browser.open("/profile")
    assert "Gespeichert." in await browser.send("/profile", name="Ann <b>", marketing="yes")
    assert "Ann &lt;b&gt;" in browser.page.text
    await browser.open("/data")
    assert browser.page.headers["content-disposition"] == 'attachment; filename="my-data.json"'
    data = browser.page.json()
    assert data["members"][0]["name"] == "Ann <b>"
    assert len(data["entries"]) == 30
    assert len(data["sessions"]) == 1

    await browser.open()
    ended = browser.cookies[name]
    assert "abgemeldet" in await browser.send("/sign-out")
    assert browser.cookies[name] != ended
    browser.cookies[name] = ended
    assert "Neu hier?" in await browser.open("/profile")
    assert await site.api.owner.fetchval("SELECT count(*) FROM sessions") == 0


async def test_a_link_signs_in_on_another_device_by_its_button_and_once(site: MemberSite) -> None:
    asking, other = site.browser(), site.browser()
    await asking.open()
    await asking.send("/sign-in", email=ANN)
    await site.mailed()
    link = link_in(last_mail(site.mails, ANN))
    assert link.startswith(f"https://points.shop.example/l/{site.program.id}/link/")
    rest = link.partition(str(site.program.id))[2]
    # What a scanner of mail does changes nothing.
    for _ in range(3):
        assert "One more step" in await other.open(rest)
    await site.api.client.request("HEAD", other.root + rest)
    assert "Welcome!" in await other.send(rest)
    assert "Your points" in await other.open()
    assert "Enter your code" not in await asking.open("/code")
    await asking.open(rest)
    assert "used already" in await asking.send(rest)
    assert "used already" in await asking.send("/link/x")


async def test_an_unknown_address_gets_the_same_answer_and_no_mail(site: MemberSite) -> None:
    terms = parse_terms({"self_join": False}, "points")
    program = site.program = await change_program(site.api.owner, site.program, terms=terms, actor="test")
    await create_member(site.api.owner, program, {"email": ANN.lower()}, actor="test")
    answers = []
    for email in (ANN, "bob@shop.example"):
        browser = site.browser()
        assert "New here?" not in await browser.open()
        page = await browser.send("/sign-in", email=email)
        await site.mailed()
        answers.append(page.replace(email, "").partition("<form")[0])
        assert browser.page.status_code == 200
    assert answers[0] == answers[1]
    assert [recipients for _, recipients, _ in site.mails.messages] == [[ANN]]
    assert await site.api.owner.fetchval("SELECT count(*) FROM login_tokens") == 2
    # A mailbox gets few codes, whether or not a member has it.
    for email in ("eve@shop.example", ANN):
        browser = site.browser()
        await browser.open()
        for _ in range(5):
            await browser.send("/sign-in", email=email)
        await browser.open()
        assert "Too many requests" in await browser.send("/sign-in", email=email)
        assert browser.page.status_code == 429


async def test_forms_of_others_are_refused(site: MemberSite) -> None:
    browser = await site.sign_in()
    token = browser.page.text.partition('name="form_token" value="')[2].partition('"')[0]
    path = f"/l/{site.program.id}/profile"
    cookie = {"cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}

    async def post(fields: dict[str, str], **headers: str) -> int:
        return (await site.api.client.post(path, data=fields, headers=cookie | headers)).status_code

    right = {"name": "Eve", "form_token": token}
    assert await post({"name": "Eve"}) == 403
    assert await post(right | {"form_token": "0" * 64}) == 403
    assert await post(right, **{"sec-fetch-site": "cross-site"}) == 403
    assert await post(right, origin="https://evil.example") == 403
    # The form token of another browser, or of this one before its login.
    other = site.browser()
    await other.open()
    foreign = other.page.text.partition('name="form_token" value="')[2].partition('"')[0]
    assert await post(right | {"form_token": foreign}) == 403
    assert await site.api.owner.fetchval("SELECT name FROM members") is None
    assert await post(right, **{"sec-fetch-site": "same-origin"}) == 303
    assert await site.api.owner.fetchval("SELECT name FROM members") == "Eve"
    headers = browser.page.headers
    assert "form-action 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "same-origin"
    # The session is for this program's pages.
    twin = await create_program(site.api.owner, site.program.client_id, "Twin", parse_terms({}, "points"), actor="test")
    browser.root = f"/l/{twin.id}"
    assert "New here?" in await browser.open("/profile")
    for unknown in (uuid4(), "x"):
        browser.root = f"/l/{unknown}"
        assert "Nothing is here" in await browser.open()
        assert browser.page.status_code == 404


async def test_a_new_address_is_confirmed_by_its_owner(site: MemberSite) -> None:
    browser, second = await site.sign_in(), await site.sign_in()
    await create_member(site.api.owner, site.program, {"email": "taken@shop.example"}, actor="test")
    await browser.open("/profile")
    assert "such as anna@example.org" in await browser.send("/profile/email", email="no")
    # A taken address: only its owner, who reads its mail, learns of it.
    for new, notice in (("taken@shop.example", "Another account has"), ("ann@new.example", "address is changed")):
        await browser.open("/profile")
        assert new in await browser.send("/profile/email", email=new)
        await site.mailed()
        code = code_in(last_mail(site.mails, new))
        assert "not valid" in await browser.send("/email", code="000000" if code != "000000" else "000001")
        assert notice in await browser.send("/email", code=code)
    await site.mailed()
    assert "was changed" in last_mail(site.mails, ANN)["Subject"]
    assert await site.api.owner.fetchval("SELECT count(*) FROM members WHERE email = 'ann@new.example'") == 1
    # Other browsers have to sign in again.
    assert "New here?" in await second.open("/profile")
    assert "ann@new.example" in await browser.open("/profile")


async def test_another_address_given_by_the_staff_ends_the_sessions_of_the_old_one(site: MemberSite) -> None:
    api = site.api
    merged = await site.sign_in()
    old = str(await api.owner.fetchval("SELECT id FROM members"))
    kept = await create_member(api.owner, site.program, {"email": "kept@shop.example"}, actor="test")
    path = f"/api/v1/loyalty/programs/{site.program.id}/members"
    answer = await api.client.post(f"{path}/{old}/merge", json={"into": str(kept.member.id)}, headers=api.admin)
    assert answer.status_code == 200, answer.text
    browser = await site.sign_in("kept@shop.example")

    async def change(email: str | None, query: str = "") -> None:
        body = {"email": email, "name": "Ann"}
        answer = await api.client.patch(f"{path}/{kept.member.id}{query}", json=body, headers=api.admin)
        assert answer.status_code == 200, answer.text

    # The same address, and a dry run, end none.
    await change("kept@shop.example")
    await change("safe@shop.example", "?dry_run=true")
    for one in (browser, merged):
        assert "kept@shop.example" in await one.open("/profile")
    await change("safe@shop.example")
    for one in (browser, merged):
        assert "New here?" in await one.open("/profile")
    assert await api.owner.fetchval("SELECT count(*) FROM sessions") == 0


async def test_a_member_takes_a_reward_once_and_shows_its_card(site: MemberSite) -> None:
    browser, postgres, program = await site.sign_in(), site.api.owner, site.program
    batch, _ = await site.api.batch("CAKE-1", "CAKE-2", client=program.client_id)
    cake = await create_reward(postgres, program.id, NewReward("Cake", 100, batch), actor="test")
    await create_reward(postgres, program.id, NewReward("Cruise", 9_000, batch), actor="test")
    found = await find_member(postgres, program, str(await postgres.fetchval("SELECT id FROM members")))
    await site.api.services.loyalty.execute(found.account_id, Adjust(250, "gift"))
    (number,) = draw_numbers(1)
    insert = "INSERT INTO cards (number, program_id, account_id, run_id) VALUES ($1, $2, $3, $4)"
    await postgres.execute(insert, number, program.id, found.account_id, uuid4())
    page = await browser.open()
    assert show_number(number) in page
    assert re.search(r'<svg[^>]* viewBox="[^"]+"[^>]*><path ', page)
    assert "8,750 to go" in page
    assert "Take Cake" in page
    assert "Take Cruise" not in page

    rest = f"/rewards/{cake.id}"
    assert "It costs 100; you have 250." in await browser.open(rest)
    key = browser.page.text.partition('name="key" value="')[2].partition('"')[0]
    # A form that is sent twice takes one.
    for _ in range(2):
        await browser.open(rest)
        assert "It is yours" in await browser.send(rest, key=key)
        assert "CAKE-1" in browser.page.text
    assert ">150<" in browser.page.text
    await browser.open(rest)
    assert "It is yours" in await browser.send(rest, key="another")
    assert "do not have enough for it yet" in await browser.open(rest)
    await browser.open()
    assert "You do not have enough for it." in await browser.send(rest, key="third")
    assert "Nothing is here" in await browser.open("/rewards/x")
    assert await postgres.fetchval("SELECT count(*) FROM moves WHERE state = 'done'") == 2


async def test_a_member_deletes_itself(site: MemberSite) -> None:
    browser, second = await site.sign_in(), await site.sign_in()
    await browser.open("/delete")
    assert "cannot be undone" in await browser.send("/delete")
    assert browser.page.status_code == 422
    assert "Your account is deleted." in await browser.send("/delete", sure="yes")
    assert "New here?" in await second.open()
    member = await site.api.owner.fetchrow("SELECT * FROM members")
    assert member is not None
    assert (member["email"], member["erased_at"] is not None) == (None, True)
    counts = "SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM login_tokens)"
    assert await site.api.owner.fetchval(counts) == 0

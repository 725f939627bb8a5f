"""Clients of FealTY: the requests of its README and of its tests, with another host and other credentials."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import Terms
from issuer.settings import Settings
from tests.support.api import Api, problem, running_app

ACCOUNT: Final = "/api/v1/account"
ALL: Final = "/api/v1/accounts/get"
ADMIN: Final = "/api/v1/accounts/admin"
FORM: Final = f"{ACCOUNT}/form"

NOT_FOUND: Final = """"{'Error': 'Account Not Found'}\""""
NO_BRACE: Final = """"{'Error': 'Account Not Found'\""""
EXISTS: Final = """"{'Error': 'Account for This Email Already Exists'}\""""


def account(points: int, marketing: str = "false", email: str = "test@test.com") -> str:
    return f'{{"accountid":"ID","rewardpoints":{points},"email":"{email}","marketing":{marketing}}}'


WITH_COMMA: Final = '{\n    "email": "test@test.com",\n    "rewardpoints": 123,\n    "marketing": false,\n}'
"""The body of the README as it is there. It is no JSON, so the predecessor reads no field of it."""

TRANSCRIPT: Final = (
    ("GET", "/healthz", "", "OK"),
    ("GET", ALL, "", "null"),
    ("GET", ACCOUNT, '{\n    "email": "test@test.com"\n}', NOT_FOUND),
    ("POST", ACCOUNT, WITH_COMMA, EXISTS),
    ("POST", ACCOUNT, '{"rewardpoints": 123}', EXISTS),
    ("POST", ACCOUNT, '{"email": "test@test.com", "rewardpoints": 123, "marketing": false}', account(123)),
    ("POST", ACCOUNT, '{"email": "test@test.com", "rewardpoints": 1, "marketing": true}', EXISTS),
    ("GET", ACCOUNT, '{"email": "test@test.com"}', account(123)),
    ("PUT", ACCOUNT, '{"email": "test@test.com", "rewardpoints": 200, "marketing": false}', account(200)),
    # "Partial update possible. Only provided data will be changed."
    ("PUT", ACCOUNT, '{"email": "test@test.com", "marketing": true}', account(200, "true")),
    ("PUT", ACCOUNT, '{"email": "test@test.com", "rewardpoints": 45}', account(45, "true")),
    ("PUT", ACCOUNT, '{"email": "test@test.com"}', account(45, "true")),
    ("PUT", ACCOUNT, '{"email": "test2@test.com", "rewardpoints": 54, "marketing": true}', NOT_FOUND),
    ("PUT", ACCOUNT, WITH_COMMA, NOT_FOUND),
    (
        "POST",
        ACCOUNT,
        '{"Email": "test2@test.com", "RewardPoints": 54, "Marketing": true, "card": {"no": 1}}',
        account(54, "true", "test2@test.com"),
    ),
    ("GET", ALL, "", f"[{account(45, 'true')},{account(54, 'true', 'test2@test.com')}]"),
    ("GET", f"{ALL}/", "", f"[{account(45, 'true')},{account(54, 'true', 'test2@test.com')}]"),
    ("DELETE", ACCOUNT, '{"email": "test@test.com"}', account(45, "true")),
    ("DELETE", ACCOUNT, '{"email": "test@test.com"}', NO_BRACE),
    ("DELETE", ACCOUNT, "", NO_BRACE),
    ("GET", ALL, "", f"[{account(54, 'true', 'test2@test.com')}]"),
)


@dataclass(frozen=True)
class Shop:
    """A program, and a client of the predecessor whose password is a key bound to the program's client."""

    api: Api
    program: Program
    basic: dict[str, str]

    async def send(self, method: str, path: str, body: str = "", **headers: str) -> httpx.Response:
        return await self.api.client.request(method, path, content=body, headers=self.basic | headers)

    async def form(self, name: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        return await self.api.client.post(f"{FORM}/{name}", data=fields, headers=self.basic | (headers or {}))


def basic(key: dict[str, str]) -> dict[str, str]:
    secret = key["Authorization"].removeprefix("Bearer ")
    return {"Authorization": "Basic " + b64encode(f"fealty:{secret}".encode()).decode()}


@pytest_asyncio.fixture(params=["on"])
async def shop(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    named = settings.model_copy(update={"fealty": request.param, "fealty_program": "Beans"})
    async with running_app(named) as api:
        program = await create_program(api.owner, uuid4(), "Beans", Terms(), actor="test")
        yield Shop(api, program, basic(await api.key("admin", client_id=program.client_id)))


async def test_the_predecessors_own_requests_are_answered_as_its_code_answers(shop: Shop) -> None:
    ids: dict[str, set[str]] = {}
    for method, path, body, expected in TRANSCRIPT:
        answer = await shop.send(method, path, body)
        assert answer.status_code == 200, (method, body, answer.text)
        for shown in answer.json() or [] if path == ALL else [answer.json()] if path == ACCOUNT else []:
            if isinstance(shown, dict):
                ids.setdefault(shown["email"], set()).add(shown["accountid"])
        assert re.sub('"accountid":"[0-9a-f]{24}"', '"accountid":"ID"', answer.text) == expected, (method, body)
        assert answer.headers["content-type"].startswith("text/plain" if path == "/healthz" else "application/json")
    assert len(ids) == 2
    assert all(len(of_one) == 1 for of_one in ids.values()), "an account keeps its id"

    refused = await shop.api.client.get(ALL)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Basic realm="Admin"'
    # Points were set, not overwritten: each difference is an entry, and they outlive the member.
    entries = await shop.api.owner.fetch("SELECT op, points, reason FROM entries ORDER BY account_id, seq")
    assert [(row["op"], row["points"]) for row in entries] == [
        ("adjust_up", 123), ("adjust_up", 77), ("adjust_down", 155), ("adjust_up", 54),
    ]  # fmt: skip


@pytest.mark.parametrize("shop", ["off"], indirect=True)
async def test_without_the_switch_refusals_are_problems_with_a_status(shop: Shop) -> None:
    assert (await shop.send("GET", ALL)).json() == []
    named = '{"email": "test@test.com"}'
    for method in ("GET", "PUT", "DELETE"):
        assert problem(await shop.send(method, ACCOUNT, named), 404)["code"] == "member_not_found"
    problem(await shop.send("POST", ACCOUNT, WITH_COMMA), 400, "cannot parse json")
    problem(await shop.send("POST", ACCOUNT, '{"rewardpoints": 123}'), 400)
    problem(await shop.send("POST", ACCOUNT, '{"email": "test@test.com", "rewardpoints": "123"}'), 400)
    assert (await shop.send("POST", ACCOUNT, named)).json()["rewardpoints"] == 0
    assert problem(await shop.send("POST", ACCOUNT, named), 409)["code"] == "member_exists"
    page = await shop.form("search", email="unknown@test.com")
    assert (page.status_code, "no account for unknown@test.com" in page.text) == (404, True)
    repeat = {"Idempotency-Key": "one"}
    for status in (200, 409):
        answer = await shop.send("POST", ACCOUNT, '{"email": "third@test.com"}', **repeat)
        assert answer.status_code == status, "the address is the key: no answer of these routes is kept"


async def test_only_an_admin_key_of_the_client_is_the_password(shop: Shop) -> None:
    api = shop.api
    secret = api.admin["Authorization"]
    for credentials in (api.admin, basic(api.admin), {"Authorization": secret.removeprefix("Bearer ")}):
        assert (await api.client.get(ALL, headers=credentials)).status_code == 200
    problem(await api.client.get(ALL, headers=basic(api.redeemer)), 403)
    other = await api.key("admin", client_id=uuid4())
    assert problem(await api.client.get(ALL, headers=basic(other)), 404)["code"] == "program_not_found"
    wrong = basic({"Authorization": secret + "x"})
    assert problem(await api.client.get(ALL, headers=wrong), 401)["code"] == "unauthorized"
    # On no other route.
    elsewhere = await api.client.get("/api/v1/batches", headers=basic(api.admin))
    assert elsewhere.headers["www-authenticate"].startswith("Bearer")


async def test_a_page_of_another_site_cannot_use_the_credentials_that_a_browser_keeps(shop: Shop) -> None:
    cross: list[dict[str, str]] = [
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"},
    ]  # fmt: skip
    body = '{"email": "mallory@test.com", "rewardpoints": 1000000, "a": "="}'
    for headers in cross:
        for method in ("POST", "PUT", "DELETE"):
            refused = await shop.send(method, ACCOUNT, body, **{"content-type": "text/plain", **headers})
            assert problem(refused, 403)["code"] == "cross_site"
        for name in ("search", "create", "update", "delete"):
            page = await shop.form(name, headers, email="mallory@test.com", points="5", marketing="false")
            assert page.status_code == 403
    assert (await shop.send("GET", ALL)).json() is None
    own = {"sec-fetch-site": "same-origin", "origin": "http://issuer"}
    assert "mallory@test.com" in (await shop.form("create", own, email="mallory@test.com", points="5")).text


OTHER: Final = "That did not work. Check the e-mail address and the number of points."


async def test_the_forms_of_the_admin_page(shop: Shop) -> None:
    def said(page: httpx.Response) -> str:
        assert page.status_code == 200
        found = re.search(r'<(?:section class="notice"|p class="error").*?</(?:section|p)>', page.text, re.DOTALL)
        return "" if found is None else " ".join(re.sub("<[^>]+>", " ", found[0]).split())

    assert "0 accounts" in (await shop.send("GET", ADMIN)).text
    created = await shop.form("create", email="anna@test.com", points="50", marketing="true")
    assert said(created) == "Created E-mail anna@test.com Points 50 Marketing yes"
    anna = "E-mail anna@test.com Points"
    steps: tuple[tuple[str, dict[str, str], str], ...] = (
        ("create", {"email": "anna@test.com", "points": "1"}, "There is an account for anna@test.com already."),
        ("create", {"email": "<i>x", "points": "1"}, "&lt;i&gt;x is no e-mail address."),
        ("search", {"email": "ANNA@test.com"}, f"Found {anna} 50 Marketing yes"),
        ("search", {"email": "bea@test.com"}, "There is no account for bea@test.com."),
        ("update", {"email": "anna@test.com", "points": "", "marketing": "false"}, f"Changed {anna} 50 Marketing no"),
        ("update", {"email": "anna@test.com", "points": "0"}, f"Changed {anna} 0 Marketing no"),
        ("update", {"email": "anna@test.com", "points": "1e3"}, OTHER),
        ("delete", {"email": "anna@test.com"}, f"Deleted {anna} 0 Marketing no"),
    )
    for name, fields, expected in steps:
        assert said(await shop.form(name, None, **fields)) == expected, (name, fields)
    german = await shop.form("search", {"accept-language": "de"}, email="anna@test.com")
    assert said(german) == "Es gibt kein Konto für anna@test.com."


_MEMBERS: Final = """
WITH made AS (
  INSERT INTO members (id, client_id, email, email_folded)
  SELECT gen_random_uuid(), $1, n || '@test.com', n || '@test.com' FROM generate_series(1, $3::int) n
  RETURNING id, email)
INSERT INTO accounts (program_id, member_id) SELECT $2, id FROM made ORDER BY split_part(email, '@', 1)::int"""


async def test_the_list_has_no_cap_and_the_page_leads_through_all(shop: Shop) -> None:
    count = 1_234
    await shop.api.owner.execute(_MEMBERS, shop.program.client_id, shop.program.id, count)
    listed: list[dict[str, Any]] = (await shop.send("GET", ALL)).json()
    assert [one["email"] for one in listed] == [f"{number}@test.com" for number in range(1, count + 1)]
    seen, path = 0, ADMIN
    while path:
        page = (await shop.send("GET", path)).text
        assert "1,234 accounts" in page
        seen += len(re.findall("@test.com</td>", page))
        following = re.search(rf'href="({ADMIN}\?after=\d+)"', page)
        path = "" if following is None else following[1]
    assert seen == count

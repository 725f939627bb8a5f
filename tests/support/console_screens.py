"""The console in a browser: the screens that every part of it adds here, and what a visitor signs in with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import httpx
from playwright.async_api import Page

from tests.support.browser import DESKTOP, BrowserStage

CSP_EVENTS: Final = "addEventListener('securitypolicyviolation', (e) => console.error('policy', e.violatedDirective))"


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen. `path`: with names of `sample_objects` in braces; `heading`: what it shows first."""

    name: str
    path: str
    heading: str


SCREENS: Final = (
    Screen("now", "/console/now", "Now"),
    Screen("batches", "/console/batches", "Batches"),
    Screen("batch-new", "/console/batches/new", "New batch"),
    Screen("batch", "/console/batches/{batch}", "Summer tour, early birds"),
    Screen("batch-empty", "/console/batches/{empty_batch}", "Winter"),
    Screen("batch-edit", "/console/batches/{batch}/edit", "Edit batch"),
    Screen("batch-codes", "/console/batches/{batch}/codes", "Add codes"),
    Screen("find", "/console/find", "Find"),
    Screen("find-code", "/console/find?q={code}", "Find"),
    Screen("incidents", "/console/incidents", "Incidents"),
    Screen("recovery", "/console/incidents/1", "First start"),
    Screen("ledger", "/console/ledger", "Ledger"),
    Screen("campaigns", "/console/campaigns", "Campaigns"),
    Screen("campaign-new", "/console/campaigns/new", "New campaign"),
    Screen("campaign", "/console/campaigns/{campaign}", "Night market"),
    Screen("campaign-edit", "/console/campaigns/{campaign}/edit", "Edit campaign"),
    Screen("coupons", "/console/coupons", "Coupons"),
    Screen("coupon-new", "/console/coupons/new", "New coupon"),
    Screen("coupon", "/console/coupons/{coupon}", "SUMMER10"),
    Screen("coupon-edit", "/console/coupons/{coupon}/edit", "Edit coupon"),
    Screen("programs", "/console/loyalty", "Loyalty"),
    Screen("program", "/console/loyalty/{program}", "Café Blau"),
    Screen("members", "/console/loyalty/{program}/members", "Members"),
    Screen("member", "/console/loyalty/{program}/members/{member}", "Anna Lee"),
    Screen("cards", "/console/loyalty/{program}/cards", "Cards"),
    Screen("inbox", "/console/loyalty/{program}/inbox", "Shop inbox"),
    Screen("clients", "/console/clients", "Clients"),
    Screen("client-new", "/console/clients/new", "New client"),
    Screen("client", "/console/clients/{client}", "The Sample Band"),
    Screen("keys", "/console/keys", "API keys"),
    Screen("key-new", "/console/keys/new", "Create an API key"),
    Screen("operators", "/console/operators", "Operators"),
    Screen("operator-new", "/console/operators/new", "Add an operator"),
    Screen("audit", "/console/audit", "Audit"),
    Screen("settings", "/console/settings", "Settings"),
    Screen("account", "/console/account", "Your account"),
)
"""Every screen, at which `tests/browser/test_console_screens.py` looks."""


async def sample_objects(stage: BrowserStage) -> Mapping[str, str]:
    """Create what the screens show. Return the ids by the names that their paths have."""
    http = stage.http

    async def post(path: str, **options: Any) -> Any:
        response = await http.post(path, **options)
        assert response.status_code < 300, response.text
        return response.json()

    client = f"band-{uuid4()}"
    await post("/api/v1/clients", json={"id": client, "name": "The Sample Band"})
    codes = [f"SAMPLE-{uuid4()}" for _ in range(40)]
    batch = await post(
        "/api/v1/codes/upload",
        files={"file": ("codes.csv", "\n".join(("code", *codes)).encode(), "text/csv")},
        data={"batch_name": "Summer tour, early birds", "client": client, "ends_at": "2032-06-01T00:00:00Z",
              "rules": '{"maxpercustomer": 2, "timelimit": 30}'},
    )  # fmt: skip
    await post("/api/v1/operators", json={"name": f"Ada {client[-4:]}", "role": "operator", "client": client})
    await post("/api/v1/keys", json={"name": "Shop server", "scopes": ["redeem"], "client": client})
    for _ in range(13):
        body = {"batch_id": batch["batch_id"], "client": client, "customer": str(uuid4())}
        await post("/api/v1/redemptions", json=body)
    empty = await post("/api/v1/batches", json={"name": "Winter", "client": client})
    campaign = await stage.create(client=client, total=50)
    terms = {"availability_count": 1_000, "discount_variable": "10", "expiry_date": "2032-06-01"}
    coupon = await post("/coupon/", json={"client_id": client, "code": "SUMMER10", **terms})
    program, member = await _sample_member(http, client)
    return {
        "program": program,
        "member": member,
        "client": client,
        "code": codes[0],
        "batch": batch["batch_id"],
        "empty_batch": empty["id"],
        "campaign": campaign,
        "coupon": coupon["id"],
    }


async def _sample_member(http: httpx.AsyncClient, client: str) -> tuple[str, str]:
    """Create a program with a member and points."""
    programs = "/api/v1/loyalty/programs"
    terms = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}, "expiry": {"end_of_year": 1}}
    body = {"name": "Café Blau", "client": client, "terms": terms}
    program = (await http.post(programs, json=body)).json()["id"]
    person = {"name": "Anna Lee", "email": "anna@shop.example"}
    member = (await http.post(f"{programs}/{program}/members", json=person)).json()["id"]
    order = {"amount": "345.00", "currency": "EUR", "source": "till", "order_id": "A-1"}
    assert (await http.post(f"{programs}/{program}/members/{member}/earn", json=order)).status_code == 201
    return program, member


async def signed_in(stage: BrowserStage, **options: Any) -> Page:
    """Return a page of a browser that is signed in to the console with an API key."""
    page = await stage.visit("/console/sign-in", **(options or DESKTOP))
    await page.add_init_script(CSP_EVENTS)
    await page.get_by_text("Use an API key").click()
    await page.get_by_label("API key").fill(stage.http.headers["authorization"].removeprefix("Bearer "))
    await page.get_by_role("button", name="Sign in with the key").click()
    await page.wait_for_url(lambda url: "sign-in" not in url)
    return page

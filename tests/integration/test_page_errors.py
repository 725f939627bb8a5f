"""Refusals of pages are pages in the visitor's language, and a visitor may choose the language."""

from __future__ import annotations

from uuid import uuid4

import pytest

from issuer.batches.store import BatchNotFoundError
from issuer.http.problems.problem import ProblemError
from issuer.storage.redis_link import RedisUnavailableError
from tests.support.api import Api, problem

GERMAN = {"accept-language": "de-DE,de;q=0.9", "accept": "text/html,*/*;q=0.8"}


async def test_a_failure_of_a_page_is_a_page(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    path, failure = f"/c/{uuid4()}", Exception()

    async def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("issuer.http.campaigns.page.visible_campaign", fail)
    failure = RedisUnavailableError("x")
    response = await api.client.get(path, headers=GERMAN)
    assert (response.status_code, response.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert response.headers["retry-after"] == "1"
    assert response.headers["content-language"] == "de"
    assert "Einen Moment bitte" in response.text
    assert "form-action 'none'" in response.headers["content-security-policy"]
    failure = ProblemError(429, "too many requests", "rate_limited", headers={"Retry-After": "120"})
    response = await api.client.get(path)
    assert (response.status_code, response.headers["retry-after"]) == (429, "120")
    assert "Please try again in 2 minutes." in response.text
    # An exception without a row of its own in the table, and one that is not expected.
    failure = BatchNotFoundError("no batch found")
    assert "Nothing is here" in (await api.client.get(path)).text
    failure = RuntimeError("secret cause")
    response = await api.client.get(path)
    assert response.status_code == 500
    assert "Something went wrong" in response.text
    assert "secret cause" not in response.text
    # A program gets what it gets elsewhere.
    failure = RedisUnavailableError("x")
    problem(await api.client.get(path, headers={"accept": "application/json"}), 503)
    response = await api.client.post(path)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert "That did not work" in response.text


async def test_a_visitor_chooses_a_language(api: Api) -> None:
    client, page = api.client, f"/c/{uuid4()}"
    form = {"language": "de", "path": "/?from=mail"}
    response = await client.post("/language", data=form, headers={"sec-fetch-site": "same-origin"})
    assert (response.status_code, response.headers["location"]) == (303, "/?from=mail")
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-language=de; ")
    assert {"HttpOnly", "Path=/", "SameSite=lax", "Secure"} <= set(cookie.split("; "))
    chosen = {"cookie": "__Host-language=de", "accept-language": "en"}
    assert (await client.get(page, headers=chosen)).headers["content-language"] == "de"
    # A cookie without the prefix may come from a neighbour of the domain.
    assert (await client.get(page, headers={"cookie": "language=de"})).headers["content-language"] == "en"
    # Plain HTTP to this host is how pages are developed.
    local = await client.post("http://localhost:8000/language", data=form)
    assert local.headers["set-cookie"].startswith("language=de; ")
    assert "Secure" not in local.headers["set-cookie"]
    proxied = {"x-forwarded-proto": "https"}
    local = await client.post("http://localhost:8000/language", data=form, headers=proxied)
    assert local.headers["set-cookie"].startswith("__Host-language=de; ")
    for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil"},
                    {"origin": "null"}):  # fmt: skip
        response = await client.post("/language", data=form, headers=headers)
        assert response.status_code == 403
        assert "This form came from another site" in response.text
    ways = ("//evil", "/\\evil", "https://evil", "", "/\r\nx: y", "/é")
    assert {(await client.post("/language", data=form | {"path": way})).status_code for way in ways} == {400}
    assert (await client.post("/language", data=form | {"language": "xx"})).status_code == 400
    assert (await client.post("/language", json=form)).status_code == 415
    twice = "language=de&language=en&path=/"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert (await client.post("/language", content=twice, headers=headers)).status_code == 400

"""Sign-in to the console: by whom, over which connection, and what a stolen or forged request gets."""

from __future__ import annotations

import asyncio

import pytest

from issuer.access.api_keys import revoke_key
from issuer.http.console.console_visit import HOME, SIGN_IN
from issuer.http.console.sign_in import sign_in
from issuer.operators.links import create_link
from issuer.sessions.tokens import token_hash
from tests.support.api import Api
from tests.support.console import console_screen, secret_of
from tests.support.servers import START_LIMIT_S

pytestmark = pytest.mark.shared_app


async def audited(api: Api, action: str) -> list[str]:
    rows = await api.owner.fetch("SELECT actor FROM audit_log WHERE action = $1 ORDER BY id", action)
    return [row["actor"] for row in rows]


async def test_a_key_with_the_scope_admin_opens_the_console(api: Api) -> None:
    async with console_screen(api) as screen:
        await screen.open()
        assert (screen.status, screen.path) == (200, "/sign-in")
        for wrong in ({"Authorization": ""}, {"Authorization": "isk_x"}, api.redeemer):
            await screen.send("/sign-in", key=secret_of(wrong))
            assert (screen.status, "does not open the console" in screen.text) == (403, True)
            assert not secret_of(wrong) or secret_of(wrong) not in screen.html
        key = await api.key("admin")
        before = screen.http.cookies["console"]
        await screen.send("/sign-in", key=secret_of(key))
        # Another token than before the login: who planted the old one has nothing.
        assert screen.http.cookies["console"] != before
        assert await audited(api, "console.sign-in")
        await screen.open("/sign-in")
        assert screen.path != "/sign-in"
        found = api.services.keys.find(secret_of(key))
        assert found is not None
        await revoke_key(api.owner, found.id, actor="test")
        async with asyncio.timeout(START_LIMIT_S):
            while api.services.keys.find(secret_of(key)) is not None:
                await asyncio.sleep(0.01)
        await screen.open("/sign-in")
        assert screen.path == "/sign-in"


async def test_a_link_signs_in_once(api: Api) -> None:
    link = (await create_link(api.owner, actor="cli:ada")).removeprefix("/console")
    async with console_screen(api) as screen, console_screen(api) as other:
        await screen.open(link)
        await other.open(link)
        assert "signs this browser in" in screen.text
        await screen.send(link)
        await screen.open("/sign-in")
        assert screen.path != "/sign-in"
        await other.send(link)
        assert (other.status, "not valid any more" in other.text) == (403, True)
        await other.open("/sign-in")
        assert other.path == "/sign-in"
    assert "link:cli:ada" in await audited(api, "console.sign-in")


async def test_a_link_on_another_site_signs_no_one_out(api: Api) -> None:
    crossed = {"sec-fetch-site": "cross-site"}
    async with console_screen(api) as stranger:
        for path in (SIGN_IN, "/console/batches?a=1&b=%22", f"/console/link/{'x' * 43}"):
            answer = await stranger.http.get(path, headers=crossed, follow_redirects=False)
            assert (answer.status_code, answer.headers.get_list("set-cookie")) == (200, []), path
            again = answer.headers["refresh"].removeprefix("0; url=")
            assert again == path + ("&again" if "?" in path else "?again")
            assert 'href="' + again.replace("&", "&amp;") in answer.text
        answer = await stranger.http.post("/console/batches/new", headers=crossed, follow_redirects=False)
        assert (answer.status_code, answer.headers.get_list("set-cookie")) == (403, [])


async def test_what_a_page_fetches_by_itself_keeps_no_one_signed_in(api: Api) -> None:
    async with console_screen(api, api.admin) as screen:
        digest = token_hash(screen.http.cookies["console"])
        await api.owner.execute(
            "UPDATE sessions SET expires_at = now() + interval '10 minutes' WHERE hash = $1", digest
        )
        left = "SELECT extract(epoch FROM expires_at - now()) > 700 FROM sessions WHERE hash = $1"
        for mode, moved in (("cors", False), ("same-origin", False), ("navigate", True)):
            page = await screen.http.get("/console/batches", headers={"sec-fetch-mode": mode})
            assert (page.status_code, await api.owner.fetchval(left, digest)) == (200, moved), mode


async def test_a_refusal_that_is_delayed_holds_no_slot(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    async def wait(seconds: float) -> None:
        used.append((seconds > 0, api.services.slots.operations.used))

    monkeypatch.setattr(sign_in, "_wait", wait)
    async with console_screen(api) as screen:
        await screen.open("/sign-in")
        await screen.send("/sign-in", key="isk_wrong")
        assert (screen.status, used) == (403, [(True, 0)])


async def test_a_sign_in_leads_to_pages_of_the_console_only(api: Api) -> None:
    outside = (
        "//evil.example",
        "https://evil.example/c",
        "/console/../l",
        "/console\\evil",
        "/c/x",
        "/console/sign-in",
    )
    async with console_screen(api) as screen:
        for back, leads in [*((path, HOME) for path in outside), ("/console/keys?limit=5", "/console/keys?limit=5")]:
            await screen.open("/sign-in")
            form = {"form_token": screen.token, "key": secret_of(api.admin), "next": back}
            answer = await screen.http.post(SIGN_IN, data=form, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (303, leads)
            # A visit that is signed in already is led alike.
            answer = await screen.http.get(SIGN_IN, params={"next": back}, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (303, leads)
            screen.http.cookies.clear()

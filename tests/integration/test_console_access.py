"""Who may open what in the console, and what its screens of keys, operators, audit and settings show and do."""

from __future__ import annotations

import re
from typing import Final
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from issuer.access.audit import list_entries
from issuer.http.console.access.records import show_settings
from issuer.http.console.console_visit import HOME
from issuer.http.console.operations import CONSOLE
from issuer.logs import MASK
from issuer.operators.role import Role
from issuer.operators.store import create_operator
from issuer.settings import Settings
from tests.support.api import Api
from tests.support.console import ConsoleScreen, console_screen

pytestmark = pytest.mark.shared_app

PASSWORD: Final = "four grey cats at sea"
SECRET: Final = re.compile(r"isk_[\w-]{43}")
OPEN: Final = ("/sign-in", "/link/{token}", "/sign-out")


async def signed_in(api: Api, screen: ConsoleScreen, role: Role, client: object = None) -> str:
    """Sign a new operator in; return the name."""
    name = f"ada {uuid4().hex[:8]}"
    _, first = await create_operator(api.owner, name, role, client_id=client, actor="test")  # type: ignore[arg-type]
    await screen.open("/sign-in")
    await screen.send("/sign-in", name=name, password=first)
    await screen.send("/account", new=PASSWORD, again=PASSWORD)
    return name


def paths(method: str) -> list[str]:
    """Return every path of the console, with ids that do not exist in them."""
    found = [operation.path.removeprefix(HOME) for operation in CONSOLE if operation.method == method]
    return [re.sub(r"\{\w+(:\w+)?}", "7", path) for path in found if path not in OPEN]


async def test_every_screen_needs_a_session_and_every_form_its_token(api: Api) -> None:
    async with console_screen(api) as screen:
        for path in paths("GET"):
            answer = await screen.http.get(HOME + path, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/sign-in"), path
            part = await screen.http.get(HOME + path, headers={"hx-request": "true"})
            assert part.headers["hx-redirect"].startswith("/console/sign-in"), path
        for path in paths("POST"):
            answer = await screen.http.post(HOME + path, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in"), path
    async with console_screen(api, api.admin) as screen:
        before = len((await list_entries(api.owner, limit=1000)).items)
        await screen.open("/keys")
        token = re.search(r'name="form_token" value="(\w+)"', screen.html)
        assert token is not None
        for path in paths("POST"):
            for form, headers in (
                ({}, {}),
                ({"form_token": "0" * 64}, {}),
                ({"form_token": token[1]}, {"sec-fetch-site": "cross-site"}),
                ({"form_token": token[1]}, {"sec-fetch-site": "same-site"}),
                ({"form_token": token[1]}, {"origin": "https://evil.example"}),
            ):
                answer = await screen.http.post(HOME + path, data=form, headers=headers, follow_redirects=False)
                assert 400 <= answer.status_code < 500, (path, form, answer.status_code)
        assert len((await list_entries(api.owner, limit=1000)).items) == before


async def test_roles_and_clients_bound_what_is_open(api: Api) -> None:
    closed = ("/keys", "/keys/new", "/operators", "/operators/new", "/audit", "/settings")
    client = uuid4()
    for role, bound in ((Role.VIEWER, None), (Role.OPERATOR, None), (Role.ADMIN, client)):
        async with console_screen(api) as screen:
            await signed_in(api, screen, role, bound)
            for path in closed:
                await screen.open(path)
                assert screen.status == 403, (role, path)
            await screen.open("/account")
            assert 'href="/console/keys"' not in screen.html
            # What a forged form asks for is refused as well.
            for path, form in (
                ("/keys", {"name": "mine", "scope_admin": "true"}),
                ("/operators", {"name": f"mine {uuid4()}", "role": "admin"}),
            ):
                await screen.send(path, **form)
                assert screen.status == 403, (role, path)
    async with console_screen(api, await api.key("admin", client_id=client)) as screen:
        await screen.open("/keys")
        assert screen.status == 403
    assert not await api.owner.fetchval("SELECT count(*) FROM operators WHERE name LIKE 'mine%'")
    assert not await api.owner.fetchval("SELECT count(*) FROM api_keys WHERE name = 'mine'")


async def test_a_key_is_created_and_revoked_and_the_audit_names_the_operator(api: Api) -> None:
    async with console_screen(api) as screen:
        name = await signed_in(api, screen, Role.ADMIN)
        for form, said in (
            ({"name": "", "scope_redeem": "true"}, "name"),
            ({"name": "till"}, "at least one scope"),
            ({"name": "till", "scope_public": "true"}, "bound to a client"),
            ({"name": "till", "scope_redeem": "true", "client": "unknown"}, "unknown client"),
            ({"name": "till", "scope_redeem": "true", "rate_limit": "often"}, "limit"),
        ):
            await screen.send("/keys", **form)
            assert (screen.status, said in screen.text) == (422, True), said
        await screen.send("/keys", name="<b>till</b>", scope_redeem="true", rate_limit="100/s")
        found = SECRET.search(screen.html)
        assert (screen.status, "<b>till" in screen.html) == (200, False)
        assert found is not None
        while (key := api.services.keys.find(found[0])) is None:
            await screen.open("/keys")
        await screen.open("/keys")
        assert "<b>till</b>" in screen.text
        assert found[0] not in screen.html
        await screen.open(f"/keys/{key.id}/revoke")
        await screen.send(f"/keys/{key.id}/revoke")
        assert (screen.path, "is revoked" in screen.text) == ("/keys", True)
        await screen.open("/audit")
        assert screen.text.index("key.revoke") < screen.text.index("key.create")
        assert name in screen.text
        actors = {entry.actor for entry in (await list_entries(api.owner)).items if entry.subject == f"key:{key.id}"}
        assert [actor.split(":")[0] + actor.split(":")[2] for actor in actors] == [f"operator{name}"]


async def test_an_operator_is_added_reset_and_disabled_in_the_console(api: Api) -> None:
    async with console_screen(api, api.admin) as screen, console_screen(api) as other:
        name = f"grace {uuid4().hex[:8]}"
        for form, said in (({"name": "", "role": "viewer"}, "name"), ({"name": name, "role": "root"}, "unknown role")):
            await screen.send("/operators", **form)
            assert (screen.status, said in screen.text) == (422, True), said
        await screen.send("/operators", name=name, role="viewer")
        assert "shown only this once" in screen.text
        first = re.search(r"<code>(\w{5}-\w{5}-\w{5}-\w{5})</code>", screen.html)
        assert first is not None
        await screen.send("/operators", name=name.upper(), role="viewer")
        assert (screen.status, "another operator has this name" in screen.text) == (422, True)
        await other.open("/sign-in")
        await other.send("/sign-in", name=name, password=first[1])
        assert other.path == "/account"
        await screen.open("/operators")
        one = re.search(r"/console(/operators/[0-9a-f-]{36})/disable\">Disable<[^>]+> " + name, screen.html)
        assert one is not None
        for act in ("reset", "disable"):
            await screen.open(f"{one[1]}/{act}")
            await screen.send(f"{one[1]}/{act}")
            assert screen.status == 200
        await other.open("/account")
        assert other.path == "/sign-in"
        await screen.open(f"{one[1]}/reset")
        assert screen.status == 404


def test_settings_are_shown_without_what_is_secret() -> None:
    settings = Settings(
        redis_url=SecretStr("rediss://:pa55@redis.example:6379/0"),
        database_url=SecretStr("postgresql://api:pa55@db.example/issuer?sslmode=require&sslpassword=pa55"),
        secret_key=SecretStr("pa55"),
        smtp_url=SecretStr("smtp://mail:pa55@mail.example"),
        mail_from="a@b.example",
    )
    shown = {one.variable: one for one in show_settings(settings)}
    assert not any("pa55" in one.value for one in shown.values())
    assert "redis.example:6379" in shown["ISSUER_REDIS_URL"].value
    assert (shown["ISSUER_SECRET_KEY"].value, shown["ISSUER_SECRET_KEY"].is_set) == (MASK, True)
    assert (shown["ISSUER_PORT"].value, shown["ISSUER_PORT"].is_set) == ("8000", False)


async def test_the_screen_of_settings_opens(api: Api) -> None:
    async with console_screen(api, api.admin) as screen:
        await screen.open("/settings")
        assert (screen.status, "ISSUER_REDIS_URL" in screen.text) == (200, True)
        page: httpx.Response = await screen.http.get("/console/settings")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "same-origin")

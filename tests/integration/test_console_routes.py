"""What a role and a client allow: every route of `CONSOLE`, so that one which is added later is looked at too."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Final
from uuid import UUID, uuid4

import httpx
import pytest

from issuer.access.api_keys import create_key
from issuer.http.console.console_visit import ACCOUNT
from issuer.http.console.operations import CONSOLE
from issuer.http.console.sign_in import sign_in
from issuer.http.console.sign_in.sign_in import SIGN_OUT
from issuer.http.operations import Operation
from issuer.operators.role import Role
from issuer.operators.store import create_operator
from issuer.sessions.session_store import SessionKind, begin_session
from issuer.sessions.tokens import form_token
from tests.support.api import Api
from tests.support.console import LOOPBACK

pytestmark = pytest.mark.shared_app

GUARDED: Final = tuple(operation for operation in CONSOLE if operation not in sign_in.OPERATIONS)
OF_ONESELF: Final = {ACCOUNT, SIGN_OUT}
"""The forms that every visitor has."""
FORMS: Final = re.compile(r'<form method="post" action="([^"?]+)')
NAME: Final = "Their summer"
QUERIES: Final = {"/console/exports/redemptions": "?batch_id={batch_id}"}


async def created(api: Api, path: str, body: dict[str, object]) -> str:
    answer = await api.client.post(path, json=body, headers=api.admin)
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["id"])


async def objects(api: Api) -> dict[str, str]:
    """One object of each kind, all of one client, by the names that the paths of `CONSOLE` have."""
    client = f"theirs-{uuid4()}"
    named: dict[str, object] = {"name": NAME, "client": client}
    found = {"client_id:id": await created(api, "/api/v1/clients", {"name": NAME, "id": client})}
    found["batch_id"] = await created(api, "/api/v1/batches", named)
    campaign: dict[str, object] = {"total": 1, "starts_at": "2026-01-01T00:00:00Z"}
    found["campaign_id"] = await created(api, "/api/v1/campaigns", named | campaign)
    coupon: dict[str, object] = {"client_id": client, "code": f"THEIRS-{uuid4()}", "availability_count": 1}
    found["coupon_id"] = await created(api, "/coupon/", coupon)
    found["program:id"] = await created(api, "/api/v1/loyalty/programs", named | {"terms": {}})
    members = f"/api/v1/loyalty/programs/{found['program:id']}/members"
    found["member:id"] = await created(api, members, {"name": NAME})
    operator, _ = await create_operator(api.owner, f"their-{uuid4()}", Role.VIEWER, actor="test")
    key, _ = await create_key(api.owner, name="their key", scopes=["redeem"], actor="test")
    return found | {"operator_id": str(operator.id), "key_id": str(key.id), "epoch": "1"}


def concrete(operation: Operation, ids: dict[str, str]) -> str:
    template = operation.path + QUERIES.get(operation.path, "")
    return re.sub(r"{([\w:]+)}", lambda name: ids[name[1]], template)


@asynccontextmanager
async def signed_in(api: Api, role: Role, client_id: UUID | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A browser with the session of a new operator with a chosen password."""
    operator, _ = await create_operator(api.owner, f"{role}-{uuid4()}", role, client_id=client_id, actor="test")
    await api.owner.execute("UPDATE operators SET initial_until = NULL WHERE id = $1", operator.id)
    async with api.owner.acquire() as connection:
        token = await begin_session(connection, SessionKind.CONSOLE, operator.owner)
    async with browser(api) as http:
        http.cookies.set("console", token)
        yield http


def browser(api: Api) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
    # Without it, a refusal of a page is a page.
    return httpx.AsyncClient(transport=transport, base_url=LOOPBACK, headers={"accept": "application/json"})


async def ask(http: httpx.AsyncClient, operation: Operation, path: str) -> httpx.Response:
    """Open a page, or send an empty form that is ours."""
    if operation.method == "GET":
        return await http.get(path)
    token = form_token(http.cookies["console"])
    files = {"file": ("", b"")} if operation.upload else None
    return await http.post(path, data={"form_token": token}, files=files)


async def test_a_viewer_is_refused_every_change_and_is_offered_none(api: Api) -> None:
    ids = await objects(api)
    async with signed_in(api, Role.VIEWER) as http:
        for operation in GUARDED:
            path, is_form = concrete(operation, ids), operation.method == "POST"
            if path in OF_ONESELF or operation.path.endswith("/events"):
                continue
            answer = await ask(http, operation, path)
            if is_form or answer.status_code == 403:
                assert (answer.status_code, answer.json()["code"]) == (403, "role_too_low"), path
                continue
            assert answer.status_code in (200, 303), (path, answer.text)
            offered = {unescape(action) for action in FORMS.findall(answer.text)}
            assert offered <= OF_ONESELF, (path, offered)
    for path in (f"/api/v1/batches/{ids['batch_id']}", f"/api/v1/campaigns/{ids['campaign_id']}"):
        assert (await api.get(path)).json()["name"] == NAME


async def test_a_bound_visitor_finds_nothing_of_another_client(api: Api) -> None:
    ids = await objects(api)
    theirs = {value for name, value in ids.items() if name not in ("epoch", "key_id", "member:id")} | {NAME}
    async with signed_in(api, Role.ADMIN, uuid4()) as bound, signed_in(api, Role.ADMIN) as unbound:
        for operation in GUARDED:
            path = concrete(operation, ids)
            if operation.path.endswith("/events"):
                continue
            answer = await ask(bound, operation, path)
            if path != operation.path:
                assert answer.status_code in (403, 404), (operation.method, path, answer.text)
                assert answer.json()["code"] != "stale_form", path
            named = {text for text in theirs if text in answer.text.replace(path, "")}
            assert not named, (operation.method, path, named)
            if operation.method == "GET" and not path.endswith(".pdf"):
                # The refusals are due to the visitor: the paths are right.
                assert (await unbound.get(path)).status_code in (200, 303), path

"""Names with characters that are not seen: refused by each route, and shown where data have them already."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from tests.support.api import Api, problem
from tests.support.command import Command
from tests.support.coupon_service import PAST, SERVICE

pytestmark = pytest.mark.shared_app

HIDDEN = "Summer \u202eelas"
REFUSAL = "must not contain invisible characters, such as U+202E RIGHT-TO-LEFT OVERRIDE at 8"


async def campaign(api: Api, **fields: object) -> UUID:
    body = {"name": "Night", "total": 1, "starts_at": PAST, "public": True, **fields}
    response = await api.client.post("/api/v1/campaigns", json=body, headers=api.admin)
    assert response.status_code == 201, response.text
    return UUID(response.json()["id"])


async def test_every_route_refuses_them(api: Api) -> None:
    batch, client = await api.batch("A")
    night = await campaign(api)
    for method, path, body in (
        ("POST", "/api/v1/batches", {"name": HIDDEN}),
        ("PATCH", f"/api/v1/batches/{batch}", {"name": HIDDEN}),
        ("POST", "/api/v1/campaigns", {"name": HIDDEN, "total": 1, "starts_at": PAST}),
        ("PATCH", f"/api/v1/campaigns/{night}", {"name": HIDDEN}),
    ):
        refused = problem(await api.client.request(method, path, json=body, headers=api.admin), 400)
        assert REFUSAL in refused["error"], path
    refused = problem(await api.upload([(client, "B")], name=HIDDEN), 400)
    assert REFUSAL in refused["error"]
    call = {"name": HIDDEN, "total": 1, "startTime": PAST}
    response = await api.client.post(f"{SERVICE}/CreateCampaign", json=call, headers=api.admin)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_argument")
    assert REFUSAL in response.json()["message"]


@pytest.mark.long
async def test_names_of_existing_data_are_shown_with_escapes(api: Api, tmp_path: Path) -> None:
    batch, _ = await api.batch("A")
    night = await campaign(api)
    await api.owner.execute("UPDATE batches SET name = $1", HIDDEN)
    await api.owner.execute("UPDATE api_keys SET name = $1", HIDDEN)
    page = await api.client.get(f"/c/{night}")
    assert page.status_code == 200
    shown = [page.text]
    command = Command(api.services.settings, tmp_path)
    for words in (
        ("batches", "list"), ("batches", "show", str(batch)), ("batches", "list", "--json"), ("campaigns", "list"),
        ("campaigns", "show", str(night)), ("keys", "list"),
    ):  # fmt: skip
        done = await command(*words)
        assert done.status == 0, done.err
        shown.append(done.out)
    for text in shown:
        assert "\u202e" not in text
        assert "Summer \\u202eelas" in text
    # Programs get the name as it is, and a change that does not concern it is possible.
    response = await api.client.patch(f"/api/v1/batches/{batch}", json={"paused": True}, headers=api.admin)
    assert (response.status_code, response.json()["name"]) == (200, HIDDEN)


@pytest.mark.parametrize("name", [HIDDEN, "a\u200bb", "pay\u200dpal"])
async def test_keys_are_not_named_like_that(api: Api, tmp_path: Path, name: str) -> None:
    done = await Command(api.services.settings, tmp_path)("keys", "create", "--name", name, "--scope", "redeem")
    assert done.status == 2
    assert "must not contain invisible characters" in done.err
    assert name not in done.err

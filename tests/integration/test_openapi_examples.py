"""The examples of the OpenAPI document, sent to the API as a reader of /docs sends them."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from issuer.access.secrets import new_key
from issuer.http.openapi.document import document
from issuer.http.openapi.examples import EXAMPLES
from issuer.http.pages.forms import MEDIA_TYPE
from issuer.settings import Settings
from tests.support.api import Api
from tests.support.loyalty import PROGRAMS

NAMES_NOTHING: Final = {
    "redeem", "redemptions", "GetCampaign", "createReward", "changeReward", "buyReward", "transferPoints",
    "mergeMember", "refundCard", "releaseQuarantined", "revealCode",
}  # fmt: skip
"""The examples of these operations name a batch, a campaign, a reward, a member or an entry that does not exist."""
CREATE: Final = {
    "createBatch": "batch_id", "createCampaign": "campaign_id", "createClient": "client_id", "createCoupon": "code",
    "createProgram": "program", "createMember": "member", "earnPoints": "earned",
    "spendPoints": "entry", "holdPoints": "hold_id", "createHook": "hook", "createFealtyAccount": "accountid",
    "issueCards": "number",
}  # fmt: skip


def _id_of(name: str, created: dict[str, Any]) -> str:
    if name in ("earnPoints", "spendPoints", "holdPoints"):
        created = created["hold" if name == "holdPoints" else "entry"]
    if name == "issueCards":
        created = created["items"][0]
    named = {"createCoupon": "code", "createFealtyAccount": "accountid", "issueCards": "number"}
    return str(created[named.get(name, "id")])


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a key for secrets, and the program of the example as that of the routes of FealTY."""
    changes = {"secret_key": SecretStr(new_key()), "fealty_program": EXAMPLES["NewProgram"]["name"]}
    return settings.model_copy(update=changes)


async def _posted_twice(api: Api, url: str, example: Any, headers: dict[str, str]) -> httpx.Response:
    """Post an example; if it is accepted, its repeat gets the same answer. Secrets are in no answer that is kept."""
    response = await api.client.post(url, json=example, headers=headers)
    if response.status_code < 300:
        again = await api.client.post(url, json=example, headers=headers)
        assert (again.status_code, again.headers.get("idempotency-replayed")) == (response.status_code, "true"), url
        assert again.json() == {**response.json(), **({"secret": None} if "secret" in response.json() else {})}
        other = await api.client.post(url, json={**example, "unknown": 1}, headers=headers)
        assert other.status_code in (400, 422), url
    return response


async def test_the_api_accepts_the_example_of_every_request(api: Api) -> None:
    key = await api.key("admin", "redeem")
    operations: list[tuple[str, str, dict[str, Any]]] = [
        (method, path, operation)
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if "requestBody" in operation
    ]
    found = {"reward_id": str(uuid4())}
    answers: dict[str, int] = {}
    # What others need is created first.
    for method, path, operation in sorted(operations, key=lambda one: one[2]["operationId"] not in CREATE):
        name = operation["operationId"]
        ((media_type, content),) = operation["requestBody"]["content"].items()
        example, url = content["example"], path.format_map(found)
        if media_type == "application/json" and url.startswith(PROGRAMS) and method == "post":
            response = await _posted_twice(api, url, example, {**key, "Idempotency-Key": name})
        elif media_type == "application/json":
            response = await api.client.request(method, url, json=example, headers=key)
        elif media_type == MEDIA_TYPE:
            response = await api.client.request(method, url, data=example, headers=key)
        else:
            fields = {field: value for field, value in example.items() if field != "file"}
            files = {"file": ("codes.csv", example["file"])}
            response = await api.client.request(method, url, data=fields, files=files, headers=key)
        answers[name] = response.status_code
        if name in CREATE:
            created = response.json()
            found[CREATE[name]] = _id_of(name, created)
    refused = {name: status for name, status in answers.items() if status >= 300}
    assert refused == dict.fromkeys(NAMES_NOTHING, 404)

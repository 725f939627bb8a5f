"""Every route that takes JSON refuses the same texts: duplicate names, lone surrogates, bytes behind the value, …"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import uuid4

import pytest
from pydantic import SecretStr

from issuer.access.secrets import new_key
from issuer.http.openapi.document import document
from issuer.settings import Settings
from tests.support.api import Api
from tests.support.loyalty import LoyaltyShop

CONNECT: Final = "/coupon.CouponService/"
REFUSED: Final = {
    "a name twice": '{"NAME":1,"NAME":1}',
    "a name twice, escaped": '{"NAME":1,"ESCAPED":1}',
    "a name twice in a member": '{"NAME":{"a":1,"a":1}}',
    "a name twice beside a colon in a string": '{"NAME":"a:b","NAME":1}',
    "a lone surrogate": '{"NAME":"\\ud800"}',
    "a lone surrogate as a name": '{"\\udc00":1}',
    "bytes behind": '{"NAME":1}}',
    "NUL behind": "{}\x00",
    "a vertical tab behind": "{}\x0b",
    "another object behind": "{}{}",
    "not a number": '{"NAME":NaN}',
    "a control character": '{"NAME":"\x01"}',
}
"""NAME stands for a field that the route knows, ESCAPED for the same name with an escape."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with which the secrets of hooks can be stored."""
    return settings.model_copy(update={"secret_key": SecretStr(new_key())})


def json_routes() -> Iterator[tuple[str, str, str]]:
    """Method, path and the name of a field of each operation whose documented body may be JSON."""
    described = document()
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if method == "parameters" or "application/json" not in operation.get("requestBody", {}).get("content", {}):
                continue
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            while "$ref" in schema:
                schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            yield method.upper(), path, next(iter(schema.get("properties", ("code",))))


async def test_every_route_refuses_what_is_no_strict_json(api: Api) -> None:
    key = await api.key("redeem", "admin")
    batch, client = await api.batch("A-1")
    coupon = {"code": "SAVE", "availability_count": 1, "client_id": str(client)}
    assert (await api.client.post("/coupon/", json=coupon, headers=api.admin)).status_code == 201
    created = await api.client.post(
        f"{CONNECT}CreateCampaign", json={"name": "A", "total": 1, "startTime": "2020-01-01T00:00:00Z"}, headers=key
    )
    shop = await LoyaltyShop.of(api)
    ids = {
        "entry": "1-1",
        "hold_id": str(uuid4()),
        "program": shop.path.rpartition("/")[2],
        "member": shop.anna,
        "reward_id": str(uuid4()),
        "hook": (await shop.program_post("hooks", {"kind": "standard"})).json()["id"],
        "number": (await shop.program_post("cards", {"member": "anna"})).json()["items"][0]["number"],
        "batch_id": str(batch),
        "campaign_id": created.json()["campaignId"],
        "code": "SAVE",
        "client_id": str(client),
    }
    routes = list(json_routes())
    assert len(routes) >= 10
    for method, template, name in routes:
        path = template
        for parameter, value in ids.items():
            path = path.replace("{" + parameter + "}", value)
        assert "{" not in path, f"no value for a parameter of {template}"
        escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
        for why, text in REFUSED.items():
            response = await api.client.request(
                method,
                path,
                content=text.replace("NAME", name).replace("ESCAPED", escaped).encode(),
                headers={"content-type": "application/json", **key},
            )
            code = "invalid_argument" if template.startswith(CONNECT) else "unparsable_json"
            assert (response.status_code, response.json().get("code")) == (400, code), (method, template, why)

"""An id that a caller gives, as a text or in any form of a UUID, means one person and one client on every route."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest

from issuer.contract.keys import partition_keys
from tests.support.api import Api
from tests.support.recording import drain

pytestmark = pytest.mark.shared_app

TEXT = "Zoë@example.org"
SPELLED = ("Zoe\u0308@example.org", "\ufeff Zoë@example.org\u200b", "Zo\u00eb@example.org")


async def rows_of(api: Api, report: str, key: dict[str, str], **query: str) -> list[dict[str, Any]]:
    response = await api.client.get(f"/api/v1/reports/{report}", params={"format": "ndjson", **query}, headers=key)
    assert response.status_code == 200, response.text
    return [orjson.loads(line) for line in response.content.splitlines()[:-1]]


async def test_a_text_is_one_customer_on_every_route(api: Api) -> None:
    zoe = api.services.stores.identity(TEXT).uuid
    forms = (str(zoe), zoe.hex.upper(), f"{{{zoe}}}", f"urn:uuid:{zoe}")
    batch, client = await api.batch(*(f"A-{n}" for n in range(8)), rules='{"maxpercustomer": 5}')
    forms_of_batch = (str(batch), batch.hex, f"{{{batch}}}", f"urn:uuid:{batch}")
    forms_of_client = (client.hex, f"{{{client}}}", f"URN:UUID:{client}", str(client))
    for spelled in (*SPELLED, forms[1]):
        assert (await api.redeem(batch.hex, f"{{{client}}}", spelled)).status_code == 200
    assert (await api.redeem(batch, client, forms[0])).status_code == 200
    for named, owner, spelled in zip(forms_of_batch, forms_of_client, (*SPELLED[:2], *forms[2:]), strict=True):
        assert (await api.redeem(named, owner, spelled)).json()["code"] == "limit_reached"

    coupon = {"code": "SAVE", "availability_count": 9, "client_id": str(client), "rules": {"maxpercustomer": 2}}
    assert (await api.client.post("/coupon/", json=coupon, headers=api.admin)).status_code == 201
    used = {"code": "save", "client_id": client.hex}
    uses = [
        await api.client.post("/coupon/consume/", json={**used, "customer_id": SPELLED[1]}, headers=api.redeemer),
        await api.client.post("/coupon/consume/", data={**used, "customer_id": forms[3]}, headers=api.redeemer),
        await api.client.post("/coupon/consume/", params={**used, "customer_id": TEXT}, headers=api.redeemer),
    ]
    assert [use.status_code for use in uses] == [200, 200, 403]

    # Another client's redemption by the UUID alone: nothing of it shows the text.
    others_batch, other = await api.batch("B-1")
    assert (await api.redeem(others_batch, other, zoe)).status_code == 200
    stores = api.services.stores
    await drain(stores)
    for number in range(stores.redis.partitions):
        await stores.redis.client.delete(partition_keys(number).stream)
    bound, others = await api.key("admin", client_id=client), await api.key("admin", client_id=other)
    for spelled in ("Zo%C3%AB%40example.org", "Zoe%CC%88@example.org%E2%80%8B", str(zoe), f"%7B{zoe}%7D"):
        path = f"/api/v1/customers/{spelled}/redemptions"
        assert len((await api.get(path)).json()["items"]) == 6
        own = (await api.get(path, bound)).json()["items"]
        # As each was given: the first three as the text.
        assert [(item["customer"], item["customer_id"]) for item in own] == [
            (text, str(zoe)) for text in (None, None, TEXT, TEXT, TEXT)
        ]
        assert [item["customer"] for item in (await api.get(path, others)).json()["items"]] == [None]
    ids = {item["code"]: item["redemption_id"] for item in own}
    assert len({UUID(id_) for id_ in ids.values()}) == 5

    for query in (TEXT, SPELLED[1], forms[2]):
        rows = await rows_of(api, "redemptions", api.admin, customer_id=query, client_id=client.hex)
        assert {row["code"]: row["redemption_id"] for row in rows} == ids
        assert [row["customer"] for row in rows] == [TEXT, TEXT, TEXT, None, None]
        rows = await rows_of(api, "consumptions", api.admin, customer_id=query)
        assert [(row["customer"], row["customer_id"]) for row in rows] == [(TEXT, str(zoe)), (None, str(zoe))]
    assert [row["customer"] for row in await rows_of(api, "redemptions", others, customer_id=TEXT)] == [None]
    (place,) = (await api.get(f"/api/v1/codes/{own[4]['code']}")).json()["items"]
    assert (place["customer"], place["redemption_id"]) == (TEXT, own[4]["redemption_id"])

    erased = await api.client.delete("/api/v1/customers/Zo%C3%AB@example.org", headers=api.admin)
    assert (erased.json()["redemptions"], erased.json()["consumptions"]) == (6, 2)
    assert await api.owner.fetchval("SELECT count(*) FROM ledger WHERE customer_text IS NOT NULL") == 0
    (place,) = (await api.get(f"/api/v1/codes/{own[4]['code']}")).json()["items"]
    assert (place["customer"], place["customer_id"]) == (None, None)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("an\u200bna", "an id must not contain invisible characters, such as U+200B ZERO WIDTH SPACE at 3"),
        ("x" * 129, "an id must have at most 128 characters"),
        (5, "an id is a string"),
        ([], "an id is a string"),
    ],
)
async def test_a_refused_id_says_what_to_change(api: Api, given: Any, why: str) -> None:
    body = {"batchid": str(UUID(int=1)), "clientid": str(UUID(int=1)), "customerid": given}
    use = {"code": "SAVE", "client_id": str(UUID(int=1)), "customer_id": given}
    for path, sent, name in (
        ("/api/v1/code/redeem", body, "customer_id"),
        ("/api/v1/code/redeem", {**body, "clientid": given}, "client_id"),
        ("/coupon/consume/", use, "customer_id"),
        ("/coupon/consume/", {**use, "client_id": given, "customer_id": None}, "client_id"),
    ):
        problem = (await api.client.post(path, json=sent, headers=api.redeemer)).json()
        assert (problem["error"], problem["code"]) == (f"invalid {name} format", f"invalid_{name}")
        assert problem["detail"] == f"{name}: {why}"


async def test_a_text_is_one_client_on_every_route_once_it_is_registered(api: Api) -> None:
    coupon = {"code": "SAVE", "availability_count": 9, "client_id": "band-42"}
    campaign = {"name": "Tour", "total": 2, "starts_at": "2020-01-01T00:00:00Z", "client_id": " band-42"}
    batch, _ = await api.batch("A-1")
    generate = f"/api/v1/batches/{batch.hex}/codes/generate"
    requests = (("/coupon/", coupon), ("/api/v1/campaigns", campaign), (generate, {"count": 1, "client_id": "band-42"}))
    for path, body in requests:
        refused = (await api.client.post(path, json=body, headers=api.admin)).json()
        assert (refused["code"], "issuer clients create band-42" in refused["error"]) == ("client_not_found", True)
    new = {"id": "band-42", "name": "Band 42"}
    assert (await api.client.post("/api/v1/clients", json=new, headers=api.admin)).status_code == 201
    band = api.services.stores.identity("band-42").uuid
    for path, body in requests:
        created = await api.client.post(path, json=body, headers=api.admin)
        assert created.status_code == 201, created.text
        assert created.json()["client_id"] == str(band)
    assert (await api.redeem(batch, "band-42\ufeff", "anna")).status_code == 200
    used = {"code": "SAVE", "client_id": "band-42", "customer_id": "anna"}
    assert (await api.client.post("/coupon/consume/", json=used, headers=api.redeemer)).status_code == 200
    bound = await api.key("redeem", client_id=band)
    assert (await api.client.post("/coupon/consume/", json=used, headers=bound)).status_code == 200
    other = {"batchid": str(batch), "clientid": "band-43", "customerid": "anna"}
    assert (await api.client.post("/api/v1/code/redeem", json=other, headers=bound)).status_code == 404

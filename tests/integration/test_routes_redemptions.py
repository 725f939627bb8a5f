"""POST /api/v1/redemptions: batch, client and customer by the names and ids that the caller uses."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx
import pytest

from issuer.instants import parse_instant
from tests.support.api import Api, problem
from tests.support.recording import drain

pytestmark = pytest.mark.shared_app

PATH = "/api/v1/redemptions"
ID = "7a4f8e5c-1d7b-4f0e-9b1e-2f6c3d5a9e10"


async def post(api: Api, body: Any, key: Any = None, **headers: str) -> httpx.Response:
    return await api.client.post(PATH, json=body, headers={**(key or api.redeemer), **headers})


async def test_a_redemption_and_its_replay(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2")
    body = {"batch_id": str(batch), "client_id": str(client), "customer": "anna@example.org"}
    first = await post(api, body, **{"Idempotency-Key": "order 17"})
    assert (first.status_code, first.json().keys()) == (201, {"redemption_id", "code", "batch_id", "redeemed_at"})
    assert "idempotency-replayed" not in first.headers
    assert (first.json()["code"], first.json()["batch_id"]) == ("A-1", str(batch))
    installation = api.services.stores.incarnations.installation_id
    assert first.json()["redemption_id"] == str(uuid5(installation, f"{batch} A-1"))
    again = await post(api, body, **{"Idempotency-Key": "order 17"})
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    # The predecessor's route is the same redemption.
    same = await api.redeem(batch, client, "anna@example.org", **{"Idempotency-Key": "order 17"})
    assert (same.json(), same.headers["idempotency-replayed"]) == ({"code": "A-1"}, "true")

    await drain(api.services.stores)
    (listed,) = (await api.get("/api/v1/customers/anna@example.org/redemptions")).json()["items"]
    assert {name: listed[name] for name in first.json()} == first.json()
    parse_instant(first.json()["redeemed_at"])


@pytest.mark.own_app
async def test_names_and_ids_mean_the_same(api: Api) -> None:
    assert (await api.client.post("/api/v1/clients", json={"id": "band-42"}, headers=api.admin)).status_code == 201
    client = api.services.stores.identity("band-42").uuid
    batch, _ = await api.batch(*(f"A-{n}" for n in range(9)), client=client, name="Summer")
    bound = await api.key("redeem", client_id=client)
    customer = api.services.stores.identity("anna").uuid
    wanted: list[tuple[dict[str, Any], Any]] = [
        ({"batch": "Summer", "client": "band-42", "customer": "anna"}, None),
        ({"batch": batch.hex, "client": f"{{{client}}}", "customer": f"urn:uuid:{customer}"}, None),
        ({"batch_id": f"{{{batch}}}", "client_id": " band-42", "customer_id": "anna\u200b"}, None),
        ({"batch": "Summer", "batch_id": str(batch), "client": "band-42", "client_id": str(client),
          "customer": "anna", "customer_id": str(customer)}, None),
        ({"batch": "Summer", "client": None, "customer": "anna"}, bound),
        ({"batch_id": str(batch), "customer": "anna"}, bound),
    ]  # fmt: skip
    for body, key in wanted:
        answer = await post(api, body, key)
        assert (answer.status_code, answer.json().get("batch_id")) == (201, str(batch)), (body, answer.text)
    await drain(api.services.stores)
    items = (await api.get("/api/v1/customers/anna/redemptions")).json()["items"]
    # Where the customer was given as a UUID, the row has no text.
    assert {(item["client_id"], item["customer"]) for item in items} == {(str(client), "anna"), (str(client), None)}
    assert len(items) == len(wanted)

    second = (await api.client.post("/api/v1/batches", json={"name": "Winter"}, headers=api.admin)).json()["id"]
    twice, _ = await api.batch("B-1", client=client, name="Summer")
    refused = [
        ({"batch": second, "batch_id": str(batch), "client": "band-42", "customer": "a"}, 400, "invalid_request"),
        ({"batch": "Summer", "batch_id": second, "client": "band-42", "customer": "a"}, 400, "invalid_request"),
        ({"batch_id": str(batch), "client": "band-42", "client_id": "band-43", "customer": "a"}, 400,
         "invalid_request"),
        ({"batch_id": str(batch), "client": "band-42", "customer": "a", "customer_id": "b"}, 400, "invalid_request"),
        ({"batch": "Nowhere", "client": "band-42", "customer": "a"}, 404, "batch_not_found"),
        ({"batch": "x" * 300, "client": "band-42", "customer": "a"}, 404, "batch_not_found"),
        ({"batch": "Winter", "client": "band-42", "customer": "a"}, 404, "batch_not_found"),
    ]  # fmt: skip
    for body, status, code in refused:
        assert problem(await post(api, body), status)["code"] == code, body
    # Another spelling of the name was not read yet; a new batch of a name in use counts within a second.
    api.services.batch_names._known.clear()
    ambiguous = problem(await post(api, {"batch": "Summer", "client": "band-42", "customer": "a"}), 409)
    assert (ambiguous["code"], set(ambiguous["batch_ids"])) == ("ambiguous_name", {str(batch), str(twice)})
    chosen = {"batch": "Summer", "batch_id": str(twice), "client": "band-42", "customer": "a"}
    assert (await post(api, chosen)).json()["code"] == "B-1"
    foreign = problem(await post(api, {"batch": "Summer", "client": "band-43", "customer": "a"}, bound), 403)
    assert (foreign["code"], foreign["detail"]) == ("bound_key", "the api key is bound to another client")
    unbatched = await post(
        api, {"batch": "Summer", "customer": "a"}, await api.key("redeem", client_id=(other := uuid4()))
    )
    assert problem(unbatched, 404)["detail"] == f"no batch 'Summer' of the client {other}"


@pytest.mark.own_app
async def test_an_unknown_client_is_distinguished_from_a_batch_without_codes(api: Api) -> None:
    batch, _ = await api.batch("A-1")
    bound = await api.key("redeem", client_id=api.services.stores.identity("band-42").uuid)
    for named in ({"batch": "Nowhere"}, {"batch": str(batch)}):
        body = {**named, "client": "band-42", "customer": "a"}
        refusal = problem(await post(api, body), 404)
        assert refusal["code"] == "client_not_found"
        assert refusal["detail"] == "unknown client 'band-42': issuer clients create band-42"
        assert problem(await post(api, body, bound), 404)["code"] != "client_not_found"
    api.services.registered_clients._look_ups.forget()
    assert (await api.client.post("/api/v1/clients", json={"id": "band-42"}, headers=api.admin)).status_code == 201
    for named, code in (({"batch": "Nowhere"}, "batch_not_found"), ({"batch": str(batch)}, "sold_out")):
        assert problem(await post(api, {**named, "client": "band-42", "customer": "a"}), 404)["code"] == code
    assert problem(await post(api, {"batch": "Nowhere", "client": "band-42", "customer": "a"}), 404)["detail"] == (
        "no batch 'Nowhere' of the client band-42"
    )
    assert (
        problem(await post(api, {"batch": ID, "client": "band-42", "customer": "a"}), 404)["detail"] == f"no batch {ID}"
    )


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        ({}, "invalid_batch_id", "batch_id: batch is required"),
        ({"batch": 5}, "invalid_batch_id", "batch_id: batch is a string"),
        ({"batch_id": "Summer"}, "invalid_batch_id", None),
        ({"batch": ID, "batch_id": []}, "invalid_batch_id", None),
        ({"batch": ID}, "invalid_client_id", "client_id: client is required where the api key is bound to none"),
        ({"batch": ID, "client": {}}, "invalid_client_id", "client_id: an id is a string"),
        ({"batch": ID, "client": ID}, "invalid_customer_id", "customer_id: customer is required"),
        ({"batch": ID, "client": ID, "customer": "a\tb"}, "invalid_customer_id", None),
        ({"batch": ID, "client": ID, "customer": ID, "seq": 1}, "invalid_request", None),
        ({"batch": ID, "client": ID, "customerid": ID}, "invalid_request", None),
    ],
)
async def test_a_refused_request_says_what_to_change(api: Api, body: Any, code: str, detail: str | None) -> None:
    refusal = problem(await post(api, body), 400)
    assert refusal["code"] == code
    assert detail is None or refusal["detail"] == detail


async def test_a_query_and_a_bad_body_are_refused(api: Api) -> None:
    body = {"batch": ID, "client": ID, "customer": ID}
    assert problem(await api.client.post(f"{PATH}?x=1", json=body, headers=api.redeemer), 400)["code"]
    problem(await api.client.post(PATH, content=b'{"batch":1,"batch":2}', headers=api.redeemer), 400)
    problem(await api.client.post(PATH, json=body), 401)
    problem(await api.client.post(PATH, json=body, headers=api.admin), 403)
    problem(await api.client.post(f"{PATH}/", json=body, headers=api.redeemer), 404)
    assert problem(await post(api, {**body, "batch": str(UUID(int=1))}), 404)["code"] == "batch_not_found"

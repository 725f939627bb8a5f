"""Attributes of codes: from a column of the file to the answer, the lists and the reports, also after a loss."""

from __future__ import annotations

import io
import uuid
from typing import Any

import orjson
import pytest

from issuer.batches.batch import NewBatch
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import AttributedAnswer
from issuer.loading.preload import preload_file
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from tests.support.api import UPLOAD, Api, problem
from tests.support.input_files import CLIENT, workbook
from tests.support.recording import drain
from tests.support.recovery import drain as record_all
from tests.support.recovery import engine_of, lose_data
from tests.support.servers import RedisServer

pytestmark = pytest.mark.shared_app

PIN = 'quote " back \\ é'
ROWS = (
    "Code;client_id;PIN;Seat No;note\n"
    f'A1;{CLIENT};="0012";"12 A";x\nA2;{CLIENT};;;y\nA3;{CLIENT};"quote "" back \\ é";;\n'
)


async def upload(api: Api, data: bytes | str, attributes: str, name: str = "Seats") -> Any:
    form = {"batch_name": name, "attributes": attributes}
    return await api.client.post(UPLOAD, files={"file": ("c.csv", data)}, data=form, headers=api.admin)


async def test_attributes_are_issued_with_the_code_and_listed(api: Api) -> None:
    response = await upload(api, ROWS, "pin, seat_no")
    assert response.status_code == 200, response.text
    batch = response.json()["batch_id"]
    key = {"Idempotency-Key": "k"}
    customer = uuid.uuid4()
    first, replayed = [await api.redeem(batch, CLIENT, customer, **key) for _ in range(2)]
    attributes = {"pin": "0012", "seat_no": "12 A"}
    assert first.json() == replayed.json() == {"code": "A1", "attributes": attributes}
    named = {"batch_id": batch, "client_id": str(CLIENT), "customer_id": str(customer)}
    again = await api.client.post("/api/v1/redemptions", json=named, headers={**api.redeemer, **key})
    assert (again.json()["code"], again.json()["attributes"]) == ("A1", attributes)
    # Without attributes the answer is byte for byte what it is in any batch.
    assert (await api.redeem(batch, CLIENT)).content == b'{"code":"A2"}'
    assert (await api.redeem(batch, CLIENT)).json() == {"code": "A3", "attributes": {"pin": PIN}}
    await drain(api.services.stores)
    items = (await api.get(f"/api/v1/batches/{batch}/redemptions")).json()["items"]
    assert [(item["code"], item.get("attributes")) for item in items] == [
        ("A1", attributes), ("A2", None), ("A3", {"pin": PIN}),
    ]  # fmt: skip
    (place,) = (await api.get("/api/v1/codes/A1")).json()["items"]
    assert (place["state"], place["attributes"]) == ("redeemed", attributes)
    report = await api.get(f"/api/v1/reports/redemptions?format=ndjson&batch_id={batch}")
    assert [orjson.loads(line).get("attributes") for line in report.text.splitlines()[:3]] == [
        attributes, None, {"pin": PIN},
    ]  # fmt: skip
    again = (await upload(api, ROWS, "pin")).json()
    assert (again["loaded"], again["duplicates_in_other_batches"]) == (0, 3)


async def test_attributes_that_cannot_be_kept_are_refused(api: Api) -> None:
    refused = problem(await upload(api, ROWS, "pin,row"), 400)
    assert refused["detail"] == (
        "there is no column for the attribute 'row'; the first row has 'Code', 'client_id', 'PIN', 'Seat No', 'note'"
    )
    for attributes in ("pin,PIN", ",", ",".join(map(str, range(17))), "a\u200bb"):
        assert problem(await upload(api, ROWS, attributes), 400)["code"] == "invalid_request", attributes
    rows = workbook(("B1", "1" * 1100), ("B2", "a\nb"), ("B3", 7), header=("client_id", "code", "pin"))
    report = (await upload(api, rows, "pin")).json()
    assert report["loaded"] == 1
    assert [row["reason"] for row in report["rejections"]] == [
        "attributes over 1,024 bytes", "control character in an attribute",
    ]  # fmt: skip


@pytest.mark.long
async def test_attributes_survive_a_loss(own_settings: Settings, own_redis: RedisServer) -> None:
    data = "code,pin\n" + "".join(f"C{number},{number}\n" for number in range(1, 201))
    async with open_stores(own_settings) as stores:
        report = await preload_file(
            stores, io.BytesIO(data.encode()), new_batch=NewBatch("pins"), client_id=CLIENT, attributes=["pin"]
        )
        assert report.batch_id is not None
        async with engine_of(own_settings, stores) as engine:
            ref, customer = engine.pool_ref(report.batch_id, CLIENT), uuid.uuid4().bytes
            first = await engine.redeem(ref, customer, idempotency_key="k")
            assert first == AttributedAnswer(Outcome.GRANTED, "C1", attributes=b'{"pin": "1"}')
            await record_all(stores)
            await lose_data(own_redis, stores, engine)
            replayed = await engine.redeem(ref, customer, idempotency_key="k")
            assert replayed == AttributedAnswer(Outcome.REPLAYED, "C1", attributes=b'{"pin": "1"}')
            after = await engine.redeem(ref, uuid.uuid4().bytes)
            assert after == AttributedAnswer(Outcome.GRANTED, "C52", attributes=b'{"pin": "52"}')

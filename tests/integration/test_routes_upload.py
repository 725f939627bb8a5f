"""POST /api/v1/codes/upload on the real application and real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from pydantic import SecretStr

from issuer.access.api_keys import create_key
from issuer.settings import Settings
from issuer.storage.postgres import close_pool, connect_pool
from tests.support.api import UPLOAD, Api, problem, running_app
from tests.support.api_process import ApiProcess
from tests.support.input_files import workbook
from tests.support.servers import RedisServer

pytestmark = pytest.mark.shared_app

CLIENT = uuid4()
GOOD = f"client_id,code\n{CLIENT},A\n"


async def send(api: Api, file: Any = ("codes.csv", GOOD), /, **data: str) -> httpx.Response:
    files = {} if file is None else {"file": file}
    if not files:
        return await api.client.post(UPLOAD, data=data, headers=api.admin)
    return await api.client.post(UPLOAD, files=files, data=data, headers=api.admin)


async def test_an_upload_reports_the_result_of_each_row(api: Api) -> None:
    text = f"﻿code,note,client_id\r\nA,x,{CLIENT}\r\nA,y,{CLIENT}\r\n,z,{CLIENT}\r\nB,,not-a-uuid\r\nÜ 1,,{CLIENT}\r\n"
    response = await send(api, ("Codes.CSV", text), batch_name="Summer", rules='{"maxpercustomer": 1}')
    assert response.status_code == 200
    report = response.json()
    assert report.pop("batch_id")
    assert [row["line"] for row in report.pop("rejections")] == [4, 5]
    assert report == {
        "message": "Codes uploaded successfully",
        "rows": 5,
        "loaded": 2,
        "duplicates_in_file": 1,
        "duplicates_in_batch": 0,
        "duplicates_in_other_batches": 0,
        "rejected": 2,
        "created_clients": [],
        "clients": [{"client_id": str(CLIENT), "client_name": None, "count": 2}],
        "default_client": None,
        "owners_in_batch": [],
        "other_batches": [],
        "repeated_rows": [{"line": 3, "first_line": 2}],
        "rows_in_other_batches": [],
    }
    (batch,) = (await api.get("/api/v1/batches")).json()
    assert batch["rules"] == {"maxpercustomer": 1, "timelimit": 0}


async def test_a_file_of_codes_alone_becomes_a_batch_with_a_client_and_times(api: Api) -> None:
    await api.client.post("/api/v1/clients", json={"id": "band-of-uploads"}, headers=api.admin)
    file = ("codes.csv", "code\nALONE-1\n")
    times = {"starts_at": "2030-06-07T10:00:00+02:00", "ends_at": "2030-07-01T00:00:00Z"}
    batch_id = (await send(api, file, batch_name="Alone", client="band-of-uploads", **times)).json()["batch_id"]
    batch = (await api.get(f"/api/v1/batches/{batch_id}")).json()
    assert (batch["starts_at"], batch["ends_at"]) == ("2030-06-07T08:00:00.000Z", "2030-07-01T00:00:00.000Z")
    assert [pool["client_name"] for pool in batch["stock"]] == ["band-of-uploads"]
    problem(await send(api, file, batch_name="Other", client="band-unknown"), 404)
    more = ("codes.csv", "code\nALONE-2\n")
    differing = await send(api, more, batch_id=batch_id, client="band-of-uploads", ends_at="2031-01-01T00:00:00Z")
    assert "those of the batch" in problem(differing, 400)["error"]
    assert (await send(api, more, batch_id=batch_id, client="band-of-uploads", **times)).json()["loaded"] == 1


@pytest.mark.own_app
async def test_the_same_upload_twice_adds_nothing(api: Api) -> None:
    first, second = [(await send(api, batch_name="Summer")).json() for _ in range(2)]
    assert (second["batch_id"], second["loaded"], second["message"]) == (None, 0, "No new codes: no batch was created")
    assert second["duplicates_in_other_batches"] == first["loaded"]
    batch = {"batch_id": first["batch_id"], "batch_name": "Summer", "codes": first["loaded"]}
    assert second["other_batches"] == [batch]
    assert second["rows_in_other_batches"][0] == {"line": 2, "batch_id": first["batch_id"]}
    assert len((await api.get("/api/v1/batches")).json()) == 1


@pytest.mark.own_app
async def test_uploaded_codes_can_be_redeemed_at_once(api: Api) -> None:
    batch = (await send(api, batch_name="Summer")).json()["batch_id"]
    assert (await api.redeem(batch, CLIENT)).json() == {"code": "A"}


@pytest.mark.parametrize("spare_bytes", [100_000, -100_000])
async def test_an_upload_that_does_not_fit_into_redis_is_a_507(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, spare_bytes: int
) -> None:
    with RedisServer(tmp_path_factory.mktemp("full-redis")) as server, server.client() as client:
        async with running_app(settings.model_copy(update={"redis_url": SecretStr(server.url())})) as api:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + spare_bytes)
            response = await api.upload([(CLIENT, f"{number:0200d}") for number in range(2_000)])
            assert problem(response, 507)["code"] == "does_not_fit"
            client.config_set("maxmemory", 0)
            assert (await api.get("/api/v1/batches")).json() == []
            assert (await api.upload([(CLIENT, "A")])).status_code == 200


BAD: list[tuple[str, Any, dict[str, str], str]] = [
    ("no file", None, {"batch_name": "S"}, "No CSV file provided"),
    ("a field instead of a file", None, {"file": GOOD, "batch_name": "S"}, "No CSV file provided"),
    ("nothing", None, {}, "No CSV file provided"),
    ("a PDF", ("c.csv", b"%PDF-1.7\n"), {"batch_name": "S"}, "File must be a CSV"),
    ("no name", ("c.csv", GOOD), {}, "Batch name is required"),
    ("empty name", ("c.csv", GOOD), {"batch_name": "  "}, "Batch name is required"),
    ("no client_id", ("c.csv", "code\nA\n"), {"batch_name": "S"}, "CSV must contain 'code' and 'client_id' columns"),
    ("no header", ("c.csv", f"{CLIENT},A\n"), {"batch_name": "S"}, "CSV must contain 'code' and 'client_id' columns"),
    ("empty file", ("c.csv", ""), {"batch_name": "S"}, "CSV must contain 'code' and 'client_id' columns"),
    ("no text", ("c.csv", b"\xff\x00" * 99), {"batch_name": "S"}, "CSV must contain 'code' and 'client_id' columns"),
]


@pytest.mark.parametrize(("file", "data", "error"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_invalid_uploads_are_refused_and_create_no_batch(
    api: Api, file: Any, data: dict[str, str], error: str
) -> None:
    before = (await api.get("/api/v1/batches?limit=10")).json()
    problem(await send(api, file, **data), 400, error)
    assert (await api.get("/api/v1/batches?limit=10")).json() == before


@pytest.mark.own_app
@pytest.mark.long
async def test_a_file_is_recognised_by_its_content(api: Api) -> None:
    book = workbook(("X1",), (12,))
    report = (await send(api, ("codes.csv", book), batch_name="Excel", sheet="Codes")).json()
    assert (report["loaded"], report["rejected"]) == (2, 0)
    report = (await send(api, ("codes.txt", GOOD.replace(",", ";")), batch_name="Text")).json()
    assert report["loaded"] == 1
    refusal = problem(await send(api, ("codes.xlsx", book), batch_name="S", sheet="May"), 400)
    assert (refusal["code"], "no sheet 'May'" in refusal["error"]) == ("load_refused", True)
    refusal = problem(await send(api, ("codes.csv", b"Kunde;Code\nx;y\n"), batch_name="S"), 400)
    assert refusal["detail"] == (
        "the file needs the columns 'code' and 'client_id'; the first row has 'Kunde', 'Code'; understood for the code:"
        " code, codes, coupon code, voucher code, promo code, discount code; understood for the client: client_id,"
        " client"
    )


@pytest.mark.own_app
async def test_an_upload_without_a_valid_row_is_refused_with_its_rows(api: Api) -> None:
    refusal = problem(
        await send(api, ("c.csv", f"client_id,code\n{CLIENT},\n{CLIENT},A\u200bB\n"), batch_name="S"), 400
    )
    assert (refusal["code"], refusal["rows"], refusal["rejected"]) == ("no_valid_rows", 2, 2)
    assert [row["line"] for row in refusal["rejections"]] == [2, 3]
    assert "line 3: invisible character in the code: U+200B ZERO WIDTH SPACE at 2" in refusal["error"]
    refusal = problem(await send(api, ("c.csv", "client_id,code\n"), batch_name="S"), 400)
    assert refusal["error"] == "nothing was loaded: the file has no rows of codes"
    assert (await api.get("/api/v1/batches?limit=10")).json()["items"] == []


@pytest.mark.parametrize("rules", ["x", "[]", '{"max": 1}', '{"maxpercustomer": "1"}', '{"limits": [{}]}', "\x00"])
async def test_invalid_rules_are_refused(api: Api, rules: str) -> None:
    before = (await api.get("/api/v1/batches")).json()
    response = await send(api, batch_name="S", rules=rules)
    assert problem(response, 400)["code"] == "invalid_rules"
    assert "rules" in response.json()["error"]
    assert (await api.get("/api/v1/batches")).json() == before


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "n" * 256])
async def test_invalid_names_are_refused(api: Api, name: str) -> None:
    problem(await send(api, batch_name=name), 400)


# Starlette leaves it to the garbage collector to close the file of an incomplete part.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nA\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"not a form"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"),
        ("multipart/form-data; boundary=" + "x" * 9_000, b""),
        ("application/json", b"{}"),
        ("", b""),
        ("application/x-www-form-urlencoded", b"file=%ff%00&batch_name=S"),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_form_is_a_400(api: Api, media: str, body: bytes) -> None:
    response = await api.client.post(UPLOAD, content=body, headers={**api.admin, "Content-Type": media})
    problem(response, 400)


async def test_two_files_are_refused(api: Api) -> None:
    files = [("file", ("a.csv", GOOD)), ("file", ("b.csv", GOOD))]
    problem(await api.client.post(UPLOAD, files=files, data={"batch_name": "S"}, headers=api.admin), 400)


async def test_a_file_over_the_limit_is_a_413(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"max_upload_bytes": 100_000})) as small:
        large = ("c.csv", GOOD + f"{CLIENT},B\n" * 5_000)
        problem(await send(small, large, batch_name="S"), 413, "body too large")
        assert (await small.get("/api/v1/batches")).json() == []


async def admin_key(settings: Settings) -> str:
    postgres = await connect_pool(settings, size=1)
    try:
        return (await create_key(postgres, name="upload", scopes=["admin"], actor="test"))[1]
    finally:
        await close_pool(postgres)


@pytest.mark.long
async def test_memory_use_does_not_grow_with_the_upload(settings: Settings, tmp_path: Path) -> None:
    """In a real process, the 200,000 rows (10 MB) of an upload must not be held in memory."""
    file = tmp_path / "codes.csv"
    with file.open("w") as rows:
        rows.write("client_id,code\n")
        rows.writelines(f"{CLIENT},CODE-{number:09d}\n" for number in range(200_000))
    key = await admin_key(settings)
    with ApiProcess(settings, tmp_path) as process:
        process.wait_until_ready()
        headers = {"Authorization": f"Bearer {key}"}

        def upload(path: Path) -> dict[str, Any]:
            with path.open("rb") as source:
                response = httpx.post(
                    process.url + UPLOAD,
                    files={"file": ("codes.csv", source)},
                    data={"batch_name": "Large"},
                    headers=headers,
                    timeout=120,
                )
            assert response.status_code == 200, response.text
            report: dict[str, Any] = response.json()
            return report

        small = tmp_path / "small.csv"
        small.write_text("client_id,code\n" + "".join(f"{CLIENT},S{number}\n" for number in range(20_000)))
        upload(small)
        before = psutil.Process(process.pid).memory_info().rss
        assert upload(file)["loaded"] == 200_000
        assert psutil.Process(process.pid).memory_info().rss - before < 30_000_000

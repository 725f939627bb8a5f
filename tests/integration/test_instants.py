"""Times at and beyond the bounds on every way in, and what reads times from Postgres and Redis."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio

from issuer.batches.rules import parse_rules
from issuer.batches.store import BatchChanges, change_batch, push_batch
from issuer.contract.events import encode_who
from issuer.instants import BOUNDS, LAST
from issuer.pools.top_up import top_up
from issuer.recovery.answers import restore_answers
from issuer.settings import Settings
from issuer.storage.postgres import own_connection
from issuer.storage.stores import Stores
from tests.support.api import Api
from tests.support.command import CommandInProcess
from tests.support.coupon_service import call, create, failure
from tests.support.issuing import LedgerShop, open_shop, plain_client

pytestmark = pytest.mark.shared_app

FAR = [
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999998Z", "9999-12-30T00:00:00.000001Z",
    "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+14:00",
]  # fmt: skip
EDGE = "9999-12-29T23:59:59.999500Z"
"""Rounded up it is the last instant."""
TABLES = ("batches", "pools", "coupons", "campaigns", "generation_jobs", "audit_log")


async def contents(stores: Stores) -> list[Any]:
    return [await stores.postgres.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]


def refused(response: httpx.Response, field: str) -> None:
    assert response.status_code == 400, response.text
    assert field in response.text
    assert BOUNDS in response.text


@pytest.mark.parametrize("far", FAR)
async def test_no_route_takes_a_time_outside_the_bounds(api: Api, far: str) -> None:
    stores, client = api.services.stores, str(uuid.uuid4())
    batch, _ = await api.batch("A1", client=uuid.UUID(client))
    campaign = await create(api)
    code = f"T-{client[:8]}"
    coupon = {"code": code, "availability_count": 1, "client_id": client}
    assert (await api.client.post("/coupon/", json=coupon, headers=api.admin)).status_code == 201
    before = await contents(stores)
    for field in ("starts_at", "ends_at"):
        refused(await api.client.post("/api/v1/batches", json={"name": "B", field: far}, headers=api.admin), field)
        refused(await api.client.patch(f"/api/v1/batches/{batch}", json={field: far}, headers=api.admin), field)
    body = {"name": "C", "total": 1, "starts_at": far}
    refused(await api.client.post("/api/v1/campaigns", json=body, headers=api.admin), "starts_at")
    change = {"starts_at": far}
    refused(await api.client.patch(f"/api/v1/campaigns/{campaign}", json=change, headers=api.admin), "starts_at")
    other = coupon | {"code": "OTHER", "expiry_date": far}
    refused(await api.client.post("/coupon/", json=other, headers=api.admin), "expiry_date")
    refused(await api.client.post("/coupon/", data=other, headers=api.admin), "expiry_date")
    refused(await api.client.post("/coupon/", files={n: (None, str(v)) for n, v in other.items()}, headers=api.admin),
            "expiry_date")  # fmt: skip
    refused(await api.client.put(f"/coupon/{code}/", json={"expiry_date": far}, headers=api.admin), "expiry_date")
    for field in ("from", "to"):
        refused(await api.client.get("/api/v1/reports/redemptions", params={field: far}, headers=api.admin), field)
    assert await contents(stores) == before


@pytest.mark.parametrize(
    "start", ["9999-12-31T23:59:59.9995Z", "9999-12-31T23:59:59.999999999Z", "9999-12-30T00:00:00.000000001Z"]
)
async def test_no_call_of_the_coupon_service_takes_a_start_outside_the_bounds(api: Api, start: str) -> None:
    before = await contents(api.services.stores)
    response = await call(api, "CreateCampaign", name="C", total=1, startTime=start)
    message = failure(response, 400, "invalid_argument")
    assert "start_time" in message
    assert BOUNDS in message
    assert await contents(api.services.stores) == before


@pytest.mark.own_app
async def test_the_last_instant_can_be_created_shown_listed_reported_and_pushed(api: Api) -> None:
    stores, shown = api.services.stores, "9999-12-30T00:00:00.000Z"
    made = await api.client.post("/api/v1/batches", json={"name": "B", "ends_at": EDGE}, headers=api.admin)
    assert made.json()["ends_at"] == shown
    coupon = {"code": "TEN", "availability_count": 1, "client_id": str(uuid.uuid4()), "expiry_date": EDGE}
    assert (await api.client.post("/coupon/", json=coupon, headers=api.admin)).json()["expiry_date"] == shown
    assert (
        await api.client.put("/coupon/TEN/", json={"expiry_date": "29-Dec-9999"}, headers=api.admin)
    ).status_code == 200
    campaign = await create(api, start="9999-12-29T23:59:59.999000001Z")
    assert (await call(api, "GetCampaign", campaignId=campaign)).json()["startTime"] == "9999-12-30T00:00:00Z"
    assert (await api.get(f"/api/v1/campaigns/{campaign}")).json()["starts_at"] == shown
    for path in (
        "/api/v1/batches",
        "/api/v1/campaigns",
        "/api/v1/audit",
        "/api/v1/reports/coupons",
        "/coupon/?code=TEN",
    ):
        assert (await api.get(path)).status_code == 200, path
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches WHERE redis_revision < revision") == 0
    assert await stores.postgres.fetchval("SELECT max(ends_at) FROM batches") == LAST


async def test_no_cursor_names_a_time_outside_the_bounds(api: Api) -> None:
    for microseconds in (253_402_300_799_999_999, 253_402_128_000_000_001, 2**62, -1, -(2**63)):
        content = orjson.dumps(["campaigns", microseconds, str(uuid.uuid4())])
        cursor = base64.urlsafe_b64encode(content).rstrip(b"=").decode()
        response = await api.get(f"/api/v1/campaigns?cursor={cursor}")
        assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("far", FAR[:2])
def test_no_command_takes_a_time_outside_the_bounds(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far: str
) -> None:
    issuer = CommandInProcess(settings, tmp_path, monkeypatch)
    codes = tmp_path / "codes.csv"
    codes.write_text(f"client_id,code\n{uuid.uuid4()},A1\n")
    for option, words in (
        ("--starts-at", ("batches", "create", "--name", "B")),
        ("--ends-at", ("batches", "create", "--name", "B")),
        ("--starts-at", ("campaigns", "create", "--name", "C", "--total", "1")),
        ("--ends-at", ("preload", str(codes), "--batch-name", "B")),
        ("--starts-at", ("generate", "--batch-name", "B", "--count", "1")),
        ("--from", ("redemptions", "export")),
        ("--to", ("redemptions", "export")),
    ):
        done = issuer(*words, option, far)
        assert done.status == 2, (words, done)
        assert option in done.err
        assert BOUNDS in done.err
    assert issuer.rows("batches") == 0


async def test_every_time_in_the_schema_has_the_bounds(stores: Stores) -> None:
    rows = await stores.postgres.fetch(
        "SELECT a.attrelid::regclass || '.' || a.attname AS name, t.typname FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid"
        " LEFT JOIN pg_type b ON b.oid = t.typbasetype"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0"
        " AND coalesce(b.typname, t.typname) ~ '^_?(timestamptz?|date|abstime)$'"
    )
    assert len(rows) > 30
    others = [row["name"] for row in rows if row["typname"] != "instant"]
    # A day, whose bounds are those of the instants from which it is computed.
    assert others == ["accounts.day"], "columns of a time have the type instant"


@pytest.mark.parametrize(
    "time", ["infinity", "-infinity", "9999-12-30 00:00:00.000001Z", "10000-01-01Z", "1969-12-31 23:59:59.999999Z"]
)
async def test_the_schema_refuses_a_time_outside_the_bounds(stores: Stores, time: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="within_bounds"):
        await stores.postgres.execute(
            "INSERT INTO batches (partition, id, name, ends_at)"
            " VALUES (0, gen_random_uuid(), 'B', ($1::text)::timestamptz)",
            time,
        )


@pytest_asyncio.fixture
async def shop(stores: Stores, settings: Settings) -> AsyncIterator[LedgerShop]:
    with plain_client(settings.redis_url.get_secret_value()) as client:
        yield await open_shop(stores, client, codes=(10,))


@pytest.mark.parametrize("at_ms", [2**63 - 1, 2**200, 253_402_300_800_000, 10**13, -1, -(2**63)])
async def test_an_event_of_an_impossible_time_stops_neither_the_rules_nor_a_recovery(
    shop: LedgerShop, settings: Settings, at_ms: int
) -> None:
    stores, code = shop.stores, f"{shop.pool_id}-1-{shop.batch.hex[:6]}".encode()
    who = encode_who(uuid.uuid4().bytes, 0, b"k" * 16)
    fields: dict[bytes, bytes] = {
        b"v": b"1", b"e": b"%d" % stores.redis.epoch, b"t": b"%d" % at_ms, b"c": uuid.uuid4().hex.encode(), b"n": b"1",
        b"d": b"R %d 1 1\n%b%b%b" % (shop.pool_id, len(code).to_bytes(2, "big"), code, who),
    }  # fmt: skip
    raw = [part for pair in fields.items() for part in pair]
    shop.client.xadd(shop.keys.stream, fields)  # type: ignore[arg-type]
    await stores.postgres.execute(
        "INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw)"
        " VALUES (0, '1-1', 1, $1, 1, 'test', $2)",
        shop.pool_id, raw,
    )  # fmt: skip
    await change_batch(stores, shop.batch, BatchChanges(rules=parse_rules({"maxpercustomer": 2})), actor="test")
    await push_batch(stores, shop.batch)
    await top_up(stores, thorough=True)
    assert await stores.postgres.fetchval("SELECT redis_revision = revision FROM batches WHERE id = $1", shop.batch)
    async with own_connection(settings) as connection:
        await restore_answers(connection, stores.redis, [shop.batch], host_ms=1_800_000_000_000)

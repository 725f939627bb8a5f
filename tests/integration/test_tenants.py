"""Separation of tenants: a key that is bound to a client calls every route for objects of another client.

VISITS lists each route with requests for objects of another client; a route that is not listed fails the test. Each
request must be answered as expected, and may change Postgres and Redis only by creating objects of its own client.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import openpyxl
import pytest_asyncio
from starlette.routing import Route

from issuer.contract.keys import limit_key, partition_keys
from issuer.coupons.coupon import CouponTerms
from issuer.coupons.store import create_coupon
from issuer.reports.formats import MEDIA_TYPES, Format
from issuer.settings import Settings
from tests.support.api import REDEEM, UPLOAD, Api, running_app
from tests.support.recording import drain


class Expected(Enum):
    """The expected response. In any case it must not contain anything of the other client."""

    REFUSED = "404 or 403; the same request succeeds with the key of the operator"
    SILENT = "200, with objects of the caller only"
    PUBLIC = "200, without a key"
    OWN = "2xx; creates an object, and changes nothing of the other client"


REFUSED, SILENT, PUBLIC, OWN = Expected


@dataclass(frozen=True)
class TenantWorld:
    """`owner` has the batch `theirs` and codes in `shared`; the key under test is bound to `caller`."""

    owner: UUID
    caller: UUID
    theirs: UUID
    shared: UUID
    mine: UUID
    customer: UUID
    consumption: str
    job: str
    campaign: str
    public_campaign: str

    COUPON = "THEIRS-COUPON"
    NAME = "Their summer"

    def facts(self) -> set[str]:
        """Return the texts that no response to another client may contain."""
        ids = (self.owner, self.theirs, self.customer, self.consumption, self.job, self.campaign)
        return {*map(str, ids), "THEIRS-", self.NAME}


@dataclass(frozen=True)
class Visit:
    """One request. Attributes of the world in braces are filled in; `file` is uploaded."""

    expected: Expected
    path: str
    query: dict[str, str] = field(default_factory=dict)
    json: dict[str, Any] | None = None
    file: str = ""
    endless: bool = False
    """Whether a permitted request has a response without an end."""


def reports(name: str, *filters: str) -> list[Visit]:
    path = f"/api/v1/reports/{name}"
    refused = [Visit(REFUSED, path, {"batch_id": "{theirs}"}), Visit(REFUSED, path, {"client_id": "{owner}"})]
    formats = [Visit(SILENT, path, {"format": str(format_)}) for format_ in Format]
    return [
        *refused,
        *formats,
        *(Visit(SILENT, path, {name: f"{{{name[:-3]}}}", "format": "ndjson"}) for name in filters),
    ]


def coupon_reports(name: str, *filters: str) -> list[Visit]:
    path = f"/api/v1/reports/{name}"
    silent = [{"format": str(format_)} for format_ in Format] + [{"code": TenantWorld.COUPON}]
    silent += [{name: f"{{{name[:-3]}}}", "format": "ndjson"} for name in filters]
    return [Visit(REFUSED, path, {"client_id": "{owner}"}), *(Visit(SILENT, path, query) for query in silent)]


_NAMED: Final = {"code": "THEIRS-COUPON", "client_id": "{owner}"}


def coupon_visits(path: str, **change: Any) -> list[Visit]:
    """Return two requests: by the code alone, and with the id of its client."""
    named = dict(_NAMED)
    if TenantWorld.COUPON in path:
        del named["code"]
    alone = {name: value for name, value in named.items() if name != "client_id"}
    return [Visit(REFUSED, path, query, json=change or None) for query in (alone, named)]


def redemption(batch: str, client: str) -> dict[str, str]:
    return {"batchid": batch, "clientid": client, "customerid": "{customer}"}


_BATCH: Final = "/api/v1/batches/{theirs}"
_SERVICE: Final = "/coupon.CouponService/"
_PAST: Final = "2020-01-01T00:00:00Z"
_CAMPAIGN: Final = {"name": "New", "total": 1, "starts_at": _PAST}

VISITS: Final[dict[tuple[str, str], list[Visit]]] = {
    ("GET", "/livez"): [Visit(PUBLIC, "/livez")],
    ("GET", "/readyz"): [Visit(PUBLIC, "/readyz")],
    ("GET", "/healthcheck"): [Visit(PUBLIC, "/healthcheck")],
    ("GET", "/openapi.json"): [Visit(PUBLIC, "/openapi.json")],
    ("GET", "/docs"): [Visit(PUBLIC, "/docs")],
    ("GET", "/metrics"): [Visit(REFUSED, "/metrics")],
    ("GET", "/api/v1/audit"): [Visit(REFUSED, "/api/v1/audit")],
    ("GET", "/api/v1/reports/redemptions"): reports("redemptions", "customer_id"),
    ("GET", "/api/v1/reports/consumptions"): coupon_reports("consumptions", "customer_id"),
    ("GET", "/api/v1/reports/coupons"): coupon_reports("coupons"),
    ("GET", "/api/v1/reports/batches"): reports("batches"),
    ("GET", "/api/v1/batches"): [
        Visit(SILENT, "/api/v1/batches"), Visit(SILENT, "/api/v1/batches", {"limit": "1000"}),
    ],
    ("POST", "/api/v1/batches"): [Visit(OWN, "/api/v1/batches", json={"name": "New"})],
    ("GET", "/api/v1/batches/{batch_id}"): [
        Visit(REFUSED, _BATCH), Visit(SILENT, "/api/v1/batches/{shared}"),
    ],
    ("GET", "/api/v1/batches/{batch_id}/redemptions"): [
        Visit(REFUSED, _BATCH + "/redemptions"), Visit(SILENT, "/api/v1/batches/{shared}/redemptions"),
    ],
    ("POST", "/api/v1/batches/{batch_id}/codes/generate"): [
        Visit(REFUSED, _BATCH + "/codes/generate", json={"count": 1, "prefix": "X-"}),
        Visit(REFUSED, "/api/v1/batches/{shared}/codes/generate", json={"count": 1, "client_id": "{owner}"}),
    ],
    ("GET", "/api/v1/batches/{batch_id}/jobs/{job_id}"): [Visit(REFUSED, _BATCH + "/jobs/{job}")],
    ("GET", "/api/v1/codes/{code:code}"): [
        Visit(REFUSED, "/api/v1/codes/THEIRS-1"), Visit(REFUSED, "/api/v1/codes/THEIRS-SHARED-1"),
    ],
    ("GET", "/api/v1/customers/{customer_id}/redemptions"): [
        # Answered as for an unknown customer.
        Visit(SILENT, "/api/v1/customers/{customer}/redemptions"),
    ],
    ("DELETE", "/api/v1/customers/{customer_id}"): [Visit(REFUSED, "/api/v1/customers/{customer}")],
    ("POST", UPLOAD): [Visit(OWN, UPLOAD, file="client_id,code\n{owner},NEW-1\n{caller},NEW-2\n")],
    ("POST", REDEEM): [
        Visit(REFUSED, REDEEM, json=redemption("{theirs}", "{owner}")),
        Visit(REFUSED, REDEEM, json=redemption("{shared}", "{owner}")),
    ],
    ("POST", "/coupon/"): [
        Visit(REFUSED, "/coupon/", json={"code": "NEW", "availability_count": 1, "client_id": "{owner}"}),
        Visit(OWN, "/coupon/", json={"code": "NEW", "availability_count": 1, "client_id": "{caller}"}),
    ],
    ("GET", "/coupon/"): coupon_visits("/coupon/"),
    # Answered as for an unknown coupon: not valid.
    ("GET", "/coupon/consume/"): [
        Visit(SILENT, "/coupon/consume/", query) for query in ({"code": TenantWorld.COUPON}, _NAMED)
    ],
    ("POST", "/coupon/consume/"): coupon_visits("/coupon/consume/"),
    ("POST", "/coupon/consume/{consumption_id}/reverse"): [
        Visit(REFUSED, "/coupon/consume/{consumption}/reverse"),
    ],
    ("PUT", "/coupon/{code:code}/"): coupon_visits(f"/coupon/{TenantWorld.COUPON}/", availability_count=9),
    ("DELETE", "/coupon/{code:code}/"): coupon_visits(f"/coupon/{TenantWorld.COUPON}/"),
    ("GET", "/api/v1/campaigns"): [Visit(SILENT, "/api/v1/campaigns")],
    ("POST", "/api/v1/campaigns"): [
        Visit(REFUSED, "/api/v1/campaigns", json={**_CAMPAIGN, "client_id": "{owner}"}),
        Visit(OWN, "/api/v1/campaigns", json=_CAMPAIGN),
    ],
    ("GET", "/api/v1/campaigns/{campaign_id}"): [Visit(REFUSED, "/api/v1/campaigns/{campaign}")],
    ("PATCH", "/api/v1/campaigns/{campaign_id}"): [
        *(
            Visit(REFUSED, f"/api/v1/campaigns/{id_}", json=change)
            for id_ in ("{campaign}", "{public_campaign}")
            for change in ({"name": "Taken"}, {"paused": True}, {"public": True}, {"total": 5}, {"ended": True})
        ),
    ],
    ("GET", "/api/v1/campaigns/{campaign_id}/codes"): [
        *(Visit(REFUSED, f"/api/v1/campaigns/{id_}/codes") for id_ in ("{campaign}", "{public_campaign}")),
    ],
    ("GET", "/api/v1/campaigns/{campaign_id}/events"): [
        Visit(REFUSED, "/api/v1/campaigns/{campaign}/events", endless=True),
    ],
    ("GET", "/c/{campaign_id}"): [Visit(PUBLIC, "/c/{public_campaign}")],
    ("POST", _SERVICE + "CreateCampaign"): [
        Visit(OWN, _SERVICE + "CreateCampaign", json={"name": "New", "total": 1, "startTime": _PAST}),
    ],
    ("POST", _SERVICE + "GetCampaign"): [Visit(REFUSED, _SERVICE + "GetCampaign", json={"campaignId": "{campaign}"})],
    # Answered as for an unknown campaign: "not found".
    ("POST", _SERVICE + "IssueCoupon"): [Visit(SILENT, _SERVICE + "IssueCoupon", json={"campaignId": "{campaign}"})],
    ("PATCH", "/api/v1/batches/{batch_id}"): [
        *(
            Visit(REFUSED, path, json=change)
            for path in (_BATCH, "/api/v1/batches/{shared}")
            for change in ({"name": "Taken"}, {"paused": True}, {"rules": {"maxpercustomer": 1}}, {"expired": True})
        ),
    ],
}  # fmt: skip

BACKGROUND_TABLES: Final = {"incarnations", "witnesses", "workers", "journals", "audit_ends"}
"""Tables that the processes write continuously without any request, and the newest end of the audit log, which moves
with every entry."""


@pytest_asyncio.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with running_app(settings) as running:
        running.redeemer = running.admin = await running.key("admin", "redeem")
        yield running


async def make_world(api: Api) -> TenantWorld:
    owner, caller, customer = uuid4(), uuid4(), uuid4()
    rows = [(owner, f"THEIRS-{number}") for number in range(1, 4)]
    theirs = (await api.upload(rows, name=TenantWorld.NAME)).json()["batch_id"]
    rows = [(owner, f"THEIRS-SHARED-{number}") for number in range(1, 4)]
    shared = (await api.upload([*rows, (caller, "SHARED-1"), (caller, "SHARED-2")], name="Shared")).json()["batch_id"]
    mine, _ = await api.batch("MINE-1", client=caller)
    for batch, client in ((theirs, owner), (shared, owner), (shared, caller)):
        assert (await api.redeem(batch, client, customer if client == owner else None)).status_code == 200
    generation = {"count": 1, "prefix": "THEIRS-"}
    job = (await api.client.post(f"/api/v1/batches/{theirs}/codes/generate", json=generation, headers=api.admin)).json()
    campaigns = []
    for name, public in ((TenantWorld.NAME, False), ("Public summer", True)):
        new = {"name": name, "total": 3, "starts_at": _PAST, "client_id": str(owner), "public": public}
        campaigns.append((await api.client.post("/api/v1/campaigns", json=new, headers=api.admin)).json()["id"])
    stores = api.services.stores
    await create_coupon(stores, owner, TenantWorld.COUPON, CouponTerms(available=5), actor="test")
    use = {"code": TenantWorld.COUPON, "client_id": str(owner), "customer_id": str(customer)}
    used = (await api.client.post("/coupon/consume/", json=use, headers=api.redeemer)).json()
    await drain(stores)
    for number in range(stores.redis.partitions):
        await stores.redis.client.delete(partition_keys(number).stream)
    return TenantWorld(
        owner, caller, UUID(theirs), UUID(shared), mine, customer, used["consumption_id"], job["id"], *campaigns
    )


Snapshot = dict[str, set[str]]
_READABLE_TABLES: Final = """
SELECT tablename FROM pg_tables
WHERE schemaname = 'public' AND has_table_privilege(format('%I.%I', schemaname, tablename), 'SELECT')"""


async def snapshot(api: Api) -> Snapshot:
    """Return every row of every table that the API may read, and every key of Redis with its value."""
    stores = api.services.stores
    tables = await stores.postgres.fetch(_READABLE_TABLES)
    found: Snapshot = {}
    for (table,) in tables:
        if table not in BACKGROUND_TABLES:
            rows = await stores.postgres.fetch(f'SELECT t::text AS row FROM "{table}" t')
            found[table] = {row["row"] for row in rows}
    client = stores.redis.client
    # The rate limit tokens belong to the caller; counting its requests changes them.
    keys: list[Any] = [
        key async for key in client.scan_iter(count=1000) if not key.startswith(limit_key("", "")[:-2].encode())
    ]
    found["Redis"] = {f"{key!r} {await client.execute_command('DUMP', key)!r}" for key in keys}
    return found


def filled(value: Any, world: TenantWorld) -> Any:
    """Return the value with the attributes of the world filled in."""
    if isinstance(value, dict):
        return {name: filled(part, world) for name, part in value.items()}
    return value.format_map(vars(world)) if isinstance(value, str) else value


async def call(api: Api, method: str, visit: Visit, world: TenantWorld, key: dict[str, str]) -> httpx.Response:
    files = {"file": ("codes.csv", filled(visit.file, world).encode())} if visit.file else None
    return await api.client.request(
        method,
        filled(visit.path, world),
        params=filled(visit.query, world),
        json=filled(visit.json, world),
        files=files,
        data={"batch_name": "New"} if files else None,
        headers=key,
    )


def text_of(response: httpx.Response) -> str:
    """Return the readable content of a response."""
    if response.headers["content-type"] == MEDIA_TYPES[Format.XLSX]:
        book = openpyxl.load_workbook(io.BytesIO(response.content))
        return repr([[*sheet.iter_rows(values_only=True)] for sheet in book])
    return response.text


def check_answer(where: str, visit: Visit, response: httpx.Response, world: TenantWorld) -> None:
    if visit.expected is REFUSED:
        assert response.status_code in (403, 404), f"{where}: {response.status_code} {response.text}"
    else:
        assert response.is_success, f"{where}: {response.status_code} {response.text}"
    text = text_of(response)
    assert [fact for fact in world.facts() if fact in text] == [], f"{where} reveals another client: {text}"


def check_change(where: str, visit: Visit, before: Snapshot, after: Snapshot, world: TenantWorld) -> None:
    if visit.expected is not OWN:
        assert after == before, f"{where} changed something"
        return
    for place, rows in before.items():
        assert rows <= after[place], f"{where} changed or removed rows in {place}"
        added = "\n".join(after[place] - rows)
        assert [fact for fact in world.facts() if fact in added] == [], (
            f"{where} changed objects of another client: {added}"
        )
    assert after != before, f"{where} created nothing"


def routed(api: Api) -> set[tuple[str, str]]:
    """Return every method of every route of the application."""
    found = set()
    for route in api.app.routes:
        assert isinstance(route, Route), f"unknown kind of route: {route}"
        methods: Any = getattr(route.app, "operations", None) or route.methods
        assert methods, f"no methods known of {route.path}"
        found |= {(method, route.path) for method in methods if method != "HEAD"}
    return found


async def test_every_route_is_listed(api: Api) -> None:
    assert routed(api) == set(VISITS)
    assert all(VISITS.values())


async def test_a_key_of_another_client_finds_nothing_on_any_route(api: Api) -> None:
    world = await make_world(api)
    caller_key = await api.key("admin", "redeem", client_id=world.caller)
    for (method, path), visits in VISITS.items():
        for visit in visits:
            where = f"{method} {path} {filled(visit.query, world)} {filled(visit.json, world)}"
            before = await snapshot(api)
            response = await call(api, method, visit, world, caller_key)
            check_answer(where, visit, response, world)
            check_change(where, visit, before, await snapshot(api), world)


async def test_every_request_succeeds_with_the_key_of_the_operator(api: Api) -> None:
    """The refusals above are due to the key: the requests themselves are valid."""
    world = await make_world(api)
    shown = ""
    for (method, path), visits in VISITS.items():
        for visit in visits:
            if visit.endless:
                continue
            response = await call(api, method, visit, world, api.admin)
            assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
            shown += text_of(response)
    assert [fact for fact in world.facts() if fact not in shown] == []


async def test_the_snapshot_detects_a_change(api: Api) -> None:
    world = await make_world(api)
    stores = api.services.stores
    changes: list[Callable[[], Any]] = [
        lambda: api.client.patch(f"/api/v1/batches/{world.theirs}", json={"name": "X"}, headers=api.admin),
        lambda: api.redeem(world.theirs, world.owner),
        lambda: stores.redis.client.set("issuer:test", "1"),
        lambda: stores.postgres.execute("UPDATE pools SET total = total + 1 WHERE client_id = $1", world.owner),
    ]
    for change in changes:
        before = await snapshot(api)
        assert before == await snapshot(api)
        await change()
        assert before != await snapshot(api)

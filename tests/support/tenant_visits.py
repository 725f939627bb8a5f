"""Every route with requests for objects of another client, and the installation in which they are sent."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import Any, Final, cast
from uuid import UUID, uuid4

import httpx
import openpyxl
from starlette.routing import Route

from issuer.access.api_keys import create_key
from issuer.clients.registry import create_client
from issuer.contract.keys import partition_keys
from issuer.coupons.coupon import CouponTerms
from issuer.coupons.store import create_coupon
from issuer.coupons.uses import consumption_id
from issuer.http.app import PAGES
from issuer.http.auth import Access
from issuer.http.console.operations import CONSOLE
from issuer.http.operations import PathOperations
from issuer.http.pages.assets import ASSETS
from issuer.http.redeem.redemption_route import REDEMPTIONS_PATH
from issuer.http.request_path import with_and_without_slash
from issuer.ids import Identity
from issuer.loyalty.card_number import draw_numbers
from issuer.operators.store import create_operator
from issuer.reconciliation.runs import request_run
from issuer.reports.formats import MEDIA_TYPES, Format
from tests.support.api import REDEEM, UPLOAD, Api
from tests.support.loyalty_visits import FEALTY_VISITS, LOYALTY_VISITS, MEMBER_REF, PROGRAM_NAME, make_programs
from tests.support.recording import drain
from tests.support.visits import OWN, PUBLIC, REFUSED, SILENT, Visit


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
    coupon_id: str
    job: str
    campaign: str
    public_campaign: str
    key: str
    operator: str
    epoch: str
    run: str
    program: str
    own_program: str
    hook: str
    member: str
    entry: str
    hold: str
    released: str
    reward: str
    card: str
    blank_card: str
    card_entry: str

    coupon: str = "THEIRS-COUPON"
    code: str = "THEIRS-1"
    shared_code: str = "THEIRS-SHARED-1"

    NAME = "Their summer"
    COUNTS = (7_907, 7_877)
    """The uses of the coupon, and the limit of the batch's rules."""

    def facts(self) -> set[str]:
        """Return the texts that no response to another client may contain: ids, codes and names."""
        ids = (
            self.owner,
            self.theirs,
            self.customer,
            self.consumption,
            self.coupon_id,
            self.job,
            self.campaign,
            self.program,
        )
        return {*map(str, ids), self.member, "THEIRS-", self.NAME, PROGRAM_NAME, MEMBER_REF}

    def found_in(self, text: str) -> list[str]:
        """Return which facts a text contains, and which counts, as numbers of their own."""
        counts = [str(count) for count in self.COUNTS if re.search(rf"(?<![\w.-]){count}(?![\w.-])", text)]
        return sorted(fact for fact in self.facts() if fact in text) + counts

    def unknown(self) -> TenantWorld:
        """Return the same world with ids and codes that do not exist in the place of those of the owner."""
        owner, theirs, customer = uuid4(), uuid4(), uuid4()
        job, campaign, public_campaign, program, member, hold, reward, coupon_id = (str(uuid4()) for _ in range(8))
        return replace(
            self, hook=str(uuid4()), owner=owner, theirs=theirs, customer=customer, job=job, campaign=campaign,
            public_campaign=public_campaign, consumption=consumption_id(7, 7, uuid4().hex), coupon="UNKNOWN-COUPON",
            coupon_id=coupon_id,
            code="UNKNOWN-1", shared_code="UNKNOWN-SHARED-1",
            program=program, member=member, hold=hold, released=hold, entry="777-3", reward=reward,
            card=draw_numbers(1)[0], blank_card=draw_numbers(1)[0], card_entry="777-5", key="777777", epoch="777777",
            run="777777",
            operator=str(uuid4()),
        )  # fmt: skip


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
    silent = [{"format": str(format_)} for format_ in Format] + [{"code": "{coupon}"}]
    silent += [{name: f"{{{name[:-3]}}}", "format": "ndjson"} for name in filters]
    return [Visit(REFUSED, path, {"client_id": "{owner}"}), *(Visit(SILENT, path, query) for query in silent)]


_NAMED: Final = {"code": "{coupon}", "client_id": "{owner}"}


def coupon_visits(path: str, **change: Any) -> list[Visit]:
    """Return two requests: by the code alone, and with the id of its client."""
    named = dict(_NAMED)
    if "{coupon}" in path:
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
    ("GET", "/healthz"): [Visit(PUBLIC, "/healthz")],
    ("GET", "/openapi.json"): [Visit(PUBLIC, "/openapi.json")],
    ("GET", "/"): [Visit(PUBLIC, "/")],
    ("GET", "/assets/{digest}/{name}"): [Visit(PUBLIC, ASSETS["docs.js"].path)],
    ("GET", "/docs"): [Visit(PUBLIC, "/docs")],
    ("GET", "/metrics"): [Visit(REFUSED, "/metrics")],
    ("GET", "/api/v1/audit"): [Visit(REFUSED, "/api/v1/audit")],
    ("GET", "/api/v1/keys"): [Visit(REFUSED, "/api/v1/keys")],
    ("POST", "/api/v1/keys"): [
        Visit(REFUSED, "/api/v1/keys", json={"name": "mine", "scopes": ["admin"], "client_id": id_})
        for id_ in ("{owner}", "{caller}")
    ],
    ("DELETE", "/api/v1/keys/{key_id}"): [Visit(REFUSED, "/api/v1/keys/{key}")],
    ("GET", "/api/v1/find"): [
        # Answered as if there were nothing.
        Visit(SILENT, "/api/v1/find", {"q": text})
        for text in ("{code}", "{shared_code}", "{coupon}", "{customer}", "{consumption}", "{card}", "{member}",
                     MEMBER_REF)
    ],
    ("POST", "/api/v1/find/reveal"): [
        Visit(REFUSED, "/api/v1/find/reveal", json={"batch_id": "{theirs}", "client_id": "{owner}", "seq": 1}),
        Visit(REFUSED, "/api/v1/find/reveal", json={"batch_id": "{shared}", "client_id": "{owner}", "seq": 1}),
    ],
    ("GET", "/api/v1/operators"): [Visit(REFUSED, "/api/v1/operators")],
    ("POST", "/api/v1/operators"): [
        Visit(REFUSED, "/api/v1/operators", json={"name": "mine", "role": "admin", "client_id": "{owner}"}),
    ],
    ("POST", "/api/v1/operators/{operator_id}/reset"): [Visit(REFUSED, "/api/v1/operators/{operator}/reset")],
    ("DELETE", "/api/v1/operators/{operator_id}"): [Visit(REFUSED, "/api/v1/operators/{operator}")],
    ("GET", "/api/v1/recoveries"): [Visit(REFUSED, "/api/v1/recoveries")],
    ("GET", "/api/v1/recoveries/{epoch}"): [Visit(REFUSED, "/api/v1/recoveries/{epoch}")],
    ("POST", "/api/v1/recoveries/{epoch}/accept"): [Visit(REFUSED, "/api/v1/recoveries/{epoch}/accept")],
    ("GET", "/api/v1/recoveries/{epoch}/codes"): [Visit(REFUSED, "/api/v1/recoveries/{epoch}/codes")],
    ("GET", "/api/v1/reconciliations"): [Visit(REFUSED, "/api/v1/reconciliations")],
    ("POST", "/api/v1/reconciliations"): [Visit(REFUSED, "/api/v1/reconciliations")],
    ("GET", "/api/v1/reconciliations/{run_id}"): [Visit(REFUSED, "/api/v1/reconciliations/{run}")],
    ("GET", "/api/v1/quarantine"): [
        Visit(REFUSED, "/api/v1/quarantine"), Visit(REFUSED, "/api/v1/quarantine", {"batch_id": "{theirs}"}),
    ],
    ("POST", "/api/v1/quarantine/release"): [
        Visit(REFUSED, "/api/v1/quarantine/release", json={"batch_id": "{theirs}", "journals_replayed": True}),
    ],
    ("GET", "/api/v1/dead-letters"): [Visit(REFUSED, "/api/v1/dead-letters")],
    ("POST", "/api/v1/dead-letters/retry"): [Visit(REFUSED, "/api/v1/dead-letters/retry", json={})],
    ("GET", "/api/v1/reports/redemptions"): reports("redemptions", "customer_id"),
    ("GET", "/api/v1/reports/consumptions"): coupon_reports("consumptions", "customer_id"),
    ("GET", "/api/v1/reports/coupons"): coupon_reports("coupons"),
    ("GET", "/api/v1/reports/batches"): reports("batches"),
    # The owner is registered.
    ("GET", "/api/v1/clients"): [Visit(SILENT, "/api/v1/clients")],
    ("POST", "/api/v1/clients"): [Visit(REFUSED, "/api/v1/clients", json={"id": "new-band"})],
    ("GET", "/api/v1/clients/{client_id:id}"): [Visit(REFUSED, "/api/v1/clients/{owner}")],
    ("GET", "/api/v1/clients/{client_id:id}/quotas"): [Visit(REFUSED, "/api/v1/clients/{owner}/quotas")],
    ("PATCH", "/api/v1/clients/{client_id:id}/quotas"): [
        Visit(REFUSED, "/api/v1/clients/{owner}/quotas", json={"codes": 1_000_000})
    ],
    ("PATCH", "/api/v1/clients/{client_id:id}"): [Visit(REFUSED, "/api/v1/clients/{owner}", json={"name": "Taken"})],
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
    ("GET", "/api/v1/series"): [Visit(REFUSED, "/api/v1/series")],
    ("GET", "/api/v1/batches/{batch_id}/series"): [
        Visit(REFUSED, _BATCH + "/series"), Visit(REFUSED, "/api/v1/batches/{shared}/series", {"client_id": "{owner}"}),
        Visit(SILENT, "/api/v1/batches/{shared}/series"),
    ],
    ("GET", "/api/v1/campaigns/{campaign_id}/series"): [
        *(Visit(REFUSED, f"/api/v1/campaigns/{id_}/series") for id_ in ("{campaign}", "{public_campaign}")),
    ],
    ("GET", "/api/v1/coupons/{coupon_id}/series"): [Visit(REFUSED, "/api/v1/coupons/{coupon_id}/series")],
    ("POST", "/api/v1/batches/{batch_id}/codes/generate"): [
        Visit(REFUSED, _BATCH + "/codes/generate", json={"count": 1, "prefix": "X-"}),
        Visit(REFUSED, "/api/v1/batches/{shared}/codes/generate", json={"count": 1, "client_id": "{owner}"}),
    ],
    ("GET", "/api/v1/batches/{batch_id}/jobs/{job_id}"): [Visit(REFUSED, _BATCH + "/jobs/{job}")],
    ("GET", "/api/v1/codes/{code:code}"): [
        Visit(REFUSED, "/api/v1/codes/{code}"), Visit(REFUSED, "/api/v1/codes/{shared_code}"),
    ],
    ("GET", "/api/v1/customers/{customer_id:id}/redemptions"): [
        # Answered as for an unknown customer.
        Visit(SILENT, "/api/v1/customers/{customer}/redemptions"),
    ],
    ("DELETE", "/api/v1/customers/{customer_id:id}"): [Visit(REFUSED, "/api/v1/customers/{customer}")],
    ("POST", UPLOAD): [Visit(OWN, UPLOAD, file="client_id,code\n{owner},NEW-1\n{caller},NEW-2\n")],
    ("POST", REDEEM): [
        Visit(REFUSED, REDEEM, json=redemption("{theirs}", "{owner}")),
        Visit(REFUSED, REDEEM, json=redemption("{shared}", "{owner}")),
    ],
    ("POST", REDEMPTIONS_PATH): [
        Visit(REFUSED, REDEMPTIONS_PATH, json={**named, "client": "{owner}", "customer": "{customer}"})
        for named in ({"batch_id": "{theirs}"}, {"batch": TenantWorld.NAME}, {"batch": "Shared"})
    ],
    ("POST", "/coupon/"): [
        Visit(REFUSED, "/coupon/", json={"code": "NEW", "availability_count": 1, "client_id": "{owner}"}),
        Visit(OWN, "/coupon/", json={"code": "NEW", "availability_count": 1, "client_id": "{caller}"}),
    ],
    ("GET", "/coupon/"): coupon_visits("/coupon/"),
    # Answered as for an unknown coupon: not valid.
    ("GET", "/coupon/consume/"): [
        Visit(SILENT, "/coupon/consume/", query) for query in ({"code": "{coupon}"}, _NAMED)
    ],
    ("POST", "/coupon/consume/"): coupon_visits("/coupon/consume/"),
    ("POST", "/coupon/consume/{consumption_id}/reverse"): [
        Visit(REFUSED, "/coupon/consume/{consumption}/reverse"),
    ],
    ("PUT", "/coupon/{code:code}/"): coupon_visits("/coupon/{coupon}/", availability_count=9),
    ("DELETE", "/coupon/{code:code}/"): coupon_visits("/coupon/{coupon}/"),
    **FEALTY_VISITS,
    **LOYALTY_VISITS,
    ("GET", "/api/v1/campaigns"): [Visit(SILENT, "/api/v1/campaigns")],
    ("POST", "/api/v1/campaigns"): [
        Visit(REFUSED, "/api/v1/campaigns", json={**_CAMPAIGN, "client_id": "{owner}"}),
        Visit(OWN, "/api/v1/campaigns", json=_CAMPAIGN),
    ],
    ("GET", "/api/v1/campaigns/{campaign_id}"): [Visit(REFUSED, "/api/v1/campaigns/{campaign}")],
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
    # Last: the campaign is public and ended afterwards.
    ("PATCH", "/api/v1/campaigns/{campaign_id}"): [
        *(
            Visit(REFUSED, f"/api/v1/campaigns/{id_}", json=change)
            for id_ in ("{campaign}", "{public_campaign}")
            for change in ({"name": "Taken"}, {"paused": True}, {"public": True}, {"total": 5}, {"ended": True})
        ),
    ],
}  # fmt: skip


async def make_world(api: Api) -> TenantWorld:
    owner, caller, customer = uuid4(), uuid4(), uuid4()
    rows = [(owner, f"THEIRS-{number}") for number in range(1, 9)]
    theirs = (
        await api.upload(rows, name=TenantWorld.NAME, rules=f'{{"maxpercustomer": {TenantWorld.COUNTS[1]}}}')
    ).json()["batch_id"]
    rows = [(owner, f"THEIRS-SHARED-{number}") for number in range(1, 9)]
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
    await create_client(stores, Identity(owner.bytes, None), name=TenantWorld.NAME, actor="test")
    terms = CouponTerms(available=TenantWorld.COUNTS[0])
    coupon = await create_coupon(stores, owner, TenantWorld.coupon, terms, actor="test")
    use = {"code": TenantWorld.coupon, "client_id": str(owner), "customer_id": str(customer)}
    used = (await api.client.post("/coupon/consume/", json=use, headers=api.redeemer)).json()
    await drain(stores)
    for number in range(stores.redis.partitions):
        await stores.redis.client.delete(partition_keys(number).stream)
    known, _ = await create_key(api.owner, name="theirs", scopes=["redeem"], client_id=owner, actor="test")
    operator, _ = await create_operator(api.owner, f"their-{uuid4()}", "viewer", client_id=owner, actor="test")
    run = await request_run(api.owner, actor="test")
    return TenantWorld(
        owner, caller, UUID(theirs), UUID(shared), mine, customer, used["consumption_id"], str(coupon.id), job["id"],
        campaigns[0], campaigns[1], str(known.id), str(operator.id), str(stores.redis.epoch), str(run.id),
        **await make_programs(api, owner, caller, UUID(theirs)),
    )  # fmt: skip


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
        data={"batch_name": "New"} if files else filled(visit.form, world) or None,
        headers=key,
    )


def text_of(response: httpx.Response) -> str:
    """Return the readable content of a response."""
    if response.headers.get("content-type") == MEDIA_TYPES[Format.XLSX]:
        book = openpyxl.load_workbook(io.BytesIO(response.content))
        return repr([[*sheet.iter_rows(values_only=True)] for sheet in book])
    return response.text


ACCESS_OF_OTHERS: Final = {
    ("POST", REDEEM): Access.REDEEM,
    ("POST", REDEMPTIONS_PATH): Access.REDEEM,
    ("POST", _SERVICE + "CreateCampaign"): Access.ADMIN,
    ("POST", _SERVICE + "GetCampaign"): Access.ANY_KEY,
    ("POST", _SERVICE + "IssueCoupon"): Access.REDEEM,
    # Needs a key unless the campaign is public.
    ("GET", "/api/v1/campaigns/{campaign_id}/events"): Access.ADMIN,
}
"""The access of routes that do not state it in the table of operations."""


def access_of(api: Api, method: str, path: str) -> Access:
    """Return which keys a route accepts, as it states it itself."""
    known = ACCESS_OF_OTHERS.get((method, path))
    if known is not None:
        return known
    (route,) = [route for route in api.app.routes if isinstance(route, Route) and route.path == path]
    access: Access = cast(PathOperations, route.app).operations[method].access
    return access


def routed(api: Api) -> set[tuple[str, str]]:
    """Return every method of every route of the application; a path that may end in two ways is one route.

    Without pages with forms: an API key gives them no rights.
    """
    found, paths = set(), {operation.path for operation in (*PAGES, *CONSOLE)}
    for route in api.app.routes:
        assert isinstance(route, Route), f"unknown kind of route: {route}"
        if paths.intersection(with_and_without_slash(route.path)):
            continue
        paths.add(route.path)
        methods: Any = getattr(route.app, "operations", None) or route.methods
        assert methods, f"no methods known of {route.path}"
        found |= {(method, route.path) for method in methods if method != "HEAD"}
    return found

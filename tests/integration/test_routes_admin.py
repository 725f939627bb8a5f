"""Batches, codes, customers, audit trail and API keys over HTTP, on the real application and real servers."""

from __future__ import annotations

import asyncio
import html
import json
import re
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from issuer.contract.keys import partition_keys
from issuer.http.app import FILES, OPERATIONS, PAGES
from issuer.http.auth import MISSING_KEY, Access
from issuer.http.campaigns.connect_service import METHOD_PATHS
from issuer.http.console.operations import CONSOLE
from issuer.http.openapi.document import document
from issuer.http.pages.assets import KEPT
from issuer.http.problems.problem import TITLES
from issuer.http.redeem.redemption_route import REDEMPTIONS_PATH
from tests.support.api import REDEEM, Api, problem
from tests.support.recording import drain
from tests.support.servers import START_LIMIT_S

pytestmark = pytest.mark.shared_app

ORIGIN: Final = json.loads(files("issuer.http.docs.swagger_ui").joinpath("origin.json").read_text())
PUBLIC = {"/livez", "/readyz", "/healthcheck", "/healthz", "/openapi.json", "/docs", "/"}
PARTLY_PUBLIC = {"/api/v1/campaigns/{campaign_id}/events", "/c/{campaign_id}", "/hooks/{endpoint}"}
"""Routes whose access depends on the campaign, or on the signature; they have their own tests."""


def concrete(path: str) -> str:
    for name in (
        "{batch_id}",
        "{campaign_id}",
        "{job_id}",
        "{customer_id:id}",
        "{consumption_id}",
        "{code:code}",
        "{code}",
    ):
        path = path.replace(name, str(uuid4()))
    return path


async def test_every_route_requires_a_key_with_its_scope_unless_it_is_public(api: Api) -> None:
    """The routes are those of the application, so a route added later is tested too."""
    seen = set()
    # Without it, a refusal of a page is a page.
    api.client.headers["accept"] = "application/json"
    lacking = {Access.REDEEM: api.admin, Access.ADMIN: api.redeemer, Access.OPERATOR: api.redeemer}
    for route in api.app.routes:
        template = route.path.removesuffix("/")  # type: ignore[attr-defined]
        if template in {*PARTLY_PUBLIC, *METHOD_PATHS, *(operation.path for operation in (*FILES, *PAGES, *CONSOLE))}:
            continue
        path = concrete(route.path)  # type: ignore[attr-defined]
        is_redeem = path.removesuffix("/") in (REDEEM, REDEMPTIONS_PATH)
        methods = ["POST"] if is_redeem else list(route.app.operations)  # type: ignore[attr-defined]
        for method in methods:
            seen.add((method, path))
            if path in PUBLIC or path.removesuffix("/") in PUBLIC:
                assert (await api.client.request(method, path)).status_code < 400
                continue
            response = await api.client.request(method, path)
            problem(response, 401, "missing or unknown api key")
            assert "www-authenticate" in response.headers
            access = Access.REDEEM if is_redeem else route.app.operations[method].access  # type: ignore[attr-defined]
            if access in lacking:
                refused = await api.client.request(method, path, headers=lacking[access])
                assert problem(refused, 403)["code"] == "scope_missing"
    spelled_twice = {operation.path for operation in OPERATIONS if operation.lenient}
    twins = sum(operation.path in spelled_twice for operation in OPERATIONS)
    assert len(seen) == len(OPERATIONS) + twins + 3 - len(PARTLY_PUBLIC)
    public = {operation.path for operation in OPERATIONS if operation.access is Access.PUBLIC}
    assert public == PUBLIC | PARTLY_PUBLIC


async def test_operator_routes_refuse_a_bound_key(api: Api) -> None:
    bound = await api.key("admin", client_id=uuid4())
    for operation in OPERATIONS:
        if operation.access is Access.OPERATOR:
            response = await api.client.request(operation.method, concrete(operation.path), headers=bound)
            assert problem(response, 403)["code"] == "bound_key"


def test_the_openapi_document_has_exactly_the_routes_of_the_app() -> None:
    documented = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    routed = {(operation.method, re.sub(":(code|id)}", "}", operation.path)) for operation in OPERATIONS}
    assert documented == routed | {("POST", path) for path in (REDEEM, REDEMPTIONS_PATH, *METHOD_PATHS)}


def test_the_openapi_document_has_exactly_the_query_parameters_of_the_app() -> None:
    paths = document()["paths"]
    for operation in OPERATIONS:
        item = paths[re.sub(r":\w+}", "}", operation.path)]
        described = [*item.get("parameters", []), *item[operation.method.lower()].get("parameters", [])]
        names = {parameter["name"] for parameter in described if parameter["in"] == "query"}
        # A predecessor's path takes its fields in the query, too.
        known = set(operation.parameters)
        assert known <= names if operation.lenient else known == names, operation.path


async def test_a_constant_problem_keeps_no_traceback_of_earlier_requests(api: Api) -> None:
    for _ in range(3):
        assert (await api.client.get("/api/v1/batches")).status_code == 401
    assert MISSING_KEY.__traceback__ is None
    assert MISSING_KEY.__context__ is None


async def test_unknown_paths_and_methods_are_answered_with_problems(api: Api) -> None:
    assert problem(await api.get("/no/such/path"), 404, "not found")["code"] == "not_found"
    problem(await api.get("/api/v1/audit/"), 404)
    response = await api.client.request("PUT", "/api/v1/batches", headers=api.admin)
    problem(response, 405)
    assert response.headers["allow"] == "GET, HEAD, POST"
    response = await api.client.request("POST", f"/api/v1/batches/{uuid4()}", headers=api.admin)
    assert response.headers["allow"] == "GET, HEAD, PATCH"


@pytest.mark.own_app
async def test_the_list_without_parameters_is_an_array_of_the_open_batches(api: Api) -> None:
    assert (await api.get("/api/v1/batches")).json() == []
    first, _ = await api.batch("A", name="Summer", rules='{"maxpercustomer": 2, "timelimit": 30}')
    second, _ = await api.batch("B")
    response = await api.client.patch(f"/api/v1/batches/{second}", json={"expired": True}, headers=api.admin)
    assert response.json()["expired"] is True
    rules = {"maxpercustomer": 2, "timelimit": 30}
    assert (await api.get("/api/v1/batches")).json() == [
        {"id": str(first), "name": "Summer", "rules": rules, "expired": False}
    ]


@pytest.mark.own_app
async def test_batches_are_listed_in_pages_newest_first(api: Api) -> None:
    created = []
    for number in range(5):
        response = await api.client.post("/api/v1/batches", json={"name": f"B{number}"}, headers=api.admin)
        assert response.status_code == 201
        assert response.headers["location"] == f"/api/v1/batches/{response.json()['id']}"
        created.append(response.json())
    items, cursor, pages = [], "", 0
    while cursor is not None:
        page = (await api.get("/api/v1/batches?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
        items += page["items"]
        cursor = page["next_cursor"]
        pages += 1
    assert pages == 3
    assert items == created[::-1]


@pytest.mark.parametrize(
    "query",
    ["limt=1", "%FF=1", "limit=0", "limit=1001", "limit=x", "limit=", "limit=1&limit=2", "cursor=x", "cursor=",
     "cursor=%00", "limit=-1", "limit=1.5", "limit=%D9%A1", "cursor=" + "a" * 600],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/api/v1/batches", "/api/v1/audit", f"/api/v1/customers/{UUID(int=5)}/redemptions", "/api/v1/codes/X"]
)
async def test_invalid_list_queries_are_refused(api: Api, path: str, query: str) -> None:
    answer = await api.get(f"{path}?{query}")
    if path == "/api/v1/batches" and query in ("limt=1", "%FF=1"):
        assert isinstance(answer.json(), list), "a predecessor's path ignores what it does not know"
    else:
        problem(answer, 400)


async def test_a_batch_is_created_shown_and_changed(api: Api) -> None:
    fields = {
        "name": "Sommer ☀",
        "rules": {"maxpercustomer": 3, "timelimit": 7, "limits": [{"max": 1, "seconds": 60}]},
        "starts_at": "2026-01-01T00:00:00+02:00",
        "ends_at": "2999-01-01T00:00:00Z",
    }
    created = (await api.client.post("/api/v1/batches", json=fields, headers=api.admin)).json()
    assert created["rules"] == fields["rules"]
    assert created["starts_at"] == "2025-12-31T22:00:00.000Z"
    path = f"/api/v1/batches/{created['id']}"
    shown = (await api.get(path)).json()
    assert shown == {**created, "stock": []}
    changed = (await api.client.patch(path, json={"rules": None, "ends_at": None}, headers=api.admin)).json()
    assert changed["rules"] == {"maxpercustomer": 0, "timelimit": 0}
    assert changed["ends_at"] is None
    assert changed["name"] == "Sommer ☀"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"name": "\xff"}', b'{"name": "a", "name": "b"}', b'{"name": NaN}', b"[" * 50_000, b'{"a":1}',
     b'{"name": 5}', b'{"name": ""}', b'{"name": " "}', b'{"name": "a\\u0000b"}', b'{"name": "\\ud800"}',
     b'{"name": "a", "rules": []}', b'{"name": "a", "rules": {"max": 1}}',
     b'{"name": "a", "rules": {"maxpercustomer": -1}}',
     b'{"name": "a", "rules": {"maxpercustomer": true}}', b'{"name": "a", "rules": {"timelimit": 1e400}}',
     b'{"name": "a", "starts_at": "yesterday"}', b'{"name": "a", "starts_at": "2026-01-01T00:00:00"}',
     b'{"name": "a", "starts_at": 5}', b'{"name": "a", "starts_at": "0001-01-01T00:00:00+14:00"}',
     b'{"name": "a", "starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}',
     b'{"name": "' + b"a" * 256 + b'"}', b'{"name": 1' + b"0" * 5_000 + b"}"],
)  # fmt: skip
async def test_invalid_batches_are_refused_and_not_created(api: Api, body: bytes) -> None:
    before = (await api.get("/api/v1/batches")).json()
    problem(await api.client.post("/api/v1/batches", content=body, headers=api.admin), 400)
    assert (await api.get("/api/v1/batches")).json() == before


@pytest.mark.parametrize(
    "body", [{"paused": 1}, {"paused": None}, {"expired": "yes"}, {"name": None}, {"id": "x"}, {"rules": 5}]
)
async def test_invalid_changes_are_refused(api: Api, body: Any) -> None:
    batch, _ = await api.batch("A")
    problem(await api.client.patch(f"/api/v1/batches/{batch}", json=body, headers=api.admin), 400)


async def test_an_ended_batch_stays_ended(api: Api) -> None:
    batch, _ = await api.batch("A")
    path = f"/api/v1/batches/{batch}"
    for _ in range(2):
        assert (await api.client.patch(path, json={"expired": True}, headers=api.admin)).status_code == 200
    response = await api.client.patch(path, json={"expired": False}, headers=api.admin)
    assert problem(response, 409)["code"] == "batch_ended"
    problem(await api.client.patch(path, json={"name": "New"}, headers=api.admin), 409)


@pytest.mark.parametrize("bad", ["%00", "%E2%80%8B", "a%0Ab", "1" * 300])
async def test_invalid_ids_in_the_path_are_refused(api: Api, bad: str) -> None:
    problem(await api.get(f"/api/v1/batches/{bad}"), 400, "invalid batch_id format")
    problem(await api.get(f"/api/v1/customers/{bad}/redemptions"), 400, "invalid customer_id format")
    problem(await api.get("/api/v1/customers/%FF/redemptions"), 400, "the path is not UTF-8")
    problem(await api.get("/api/v1/batches/x"), 400, "invalid batch_id format")
    problem(await api.get(f"/api/v1/batches/{uuid4()}"), 404, "no batch found")


@pytest.mark.own_app
async def test_stock_and_ledger_of_a_batch(api: Api) -> None:
    client, customer = uuid4(), uuid4()
    batch, _ = await api.batch("A", "B", "C", "D/E", client=client)
    for _ in range(2):
        assert (await api.redeem(batch, client, customer)).status_code == 200
    await drain(api.services.stores)
    await api.redeem(batch, client)
    (stock,) = (await api.get(f"/api/v1/batches/{batch}")).json()["stock"]
    assert stock == {"client_id": str(client), "client_name": None, "total": 4, "in_redis": 1, "issued": 3, "ledger": 2,
                     "backlog": 1, "quarantined": 0, "dead_letters": 0, "rate_per_s_1m": None, "rate_per_s_15m": None,
                     "empty_at": None}  # fmt: skip
    page = (await api.get(f"/api/v1/batches/{batch}/redemptions")).json()
    assert [item["code"] for item in page["items"]] == ["A", "B"]
    assert page["items"][0]["customer_id"] == str(customer)
    mine = (await api.get(f"/api/v1/customers/{customer}/redemptions")).json()
    assert [item["seq"] for item in mine["items"]] == [2, 1]
    states = [
        (await api.get(f"/api/v1/codes/{code}")).json()["items"][0]["state"] for code in ("A%E2%80%8B", "C", "D%2FE")
    ]
    assert states == ["redeemed", "backlog", "available"]
    problem(await api.get("/api/v1/codes/F"), 404, "no code found")
    problem(await api.get("/api/v1/codes/%00"), 404, "no code found")


async def test_an_erased_customer_keeps_its_redemptions_counted(api: Api) -> None:
    customer = uuid4()
    batch, client = await api.batch("A", "B")
    await api.redeem(batch, client, customer)
    await drain(api.services.stores)
    for partition in range(api.services.stores.redis.partitions):
        await api.services.stores.redis.client.delete(partition_keys(partition).stream)
    path = f"/api/v1/customers/{customer}"
    assert (await api.client.delete(path, headers=api.admin)).json()["redemptions"] == 1
    assert (await api.get(f"{path}/redemptions")).json()["items"] == []
    (entry,) = (await api.get(f"/api/v1/batches/{batch}/redemptions")).json()["items"]
    assert entry["customer_id"] is None


async def test_a_bound_key_sees_only_its_own_client(api: Api) -> None:
    mine, other = uuid4(), uuid4()
    key = await api.key("admin", client_id=mine)
    response = await api.upload([(mine, "M1"), (other, "O1")], name="Shared")
    shared = response.json()["batch_id"]
    foreign, _ = await api.batch("O2", client=other)
    own, _ = await api.batch("M2", client=mine)
    listed = (await api.get("/api/v1/batches", key)).json()
    assert [batch["id"] for batch in listed] == [shared, str(own)]
    stock = (await api.get(f"/api/v1/batches/{shared}", key)).json()["stock"]
    assert [pool["client_id"] for pool in stock] == [str(mine)]
    problem(await api.get(f"/api/v1/batches/{foreign}", key), 404, "no batch found")
    problem(await api.get("/api/v1/codes/O1", key), 404, "no code found")
    assert (await api.get("/api/v1/codes/M1", key)).status_code == 200

    async def pause(batch: object) -> Any:
        return await api.client.patch(f"/api/v1/batches/{batch}", json={"paused": True}, headers=key)

    assert problem(await pause(shared), 403)["code"] == "batch_shared"
    problem(await pause(foreign), 404, "no batch found")
    assert (await pause(own)).status_code == 200


async def test_a_bound_key_uploads_codes_of_its_own_client_only(api: Api) -> None:
    mine = uuid4()
    key = await api.key("admin", client_id=mine)
    report = (await api.upload([(mine, "M1"), (uuid4(), "O1")], key=key)).json()
    assert (report["loaded"], report["rejected"]) == (1, 1)
    assert (await api.get(f"/api/v1/batches/{report['batch_id']}", key)).status_code == 200


async def test_changes_are_recorded_in_the_audit_trail(api: Api) -> None:
    batch, _ = await api.batch("A")
    page = (await api.get("/api/v1/audit")).json()
    entries = [item for item in page["items"] if item["subject"] == f"batch:{batch}"]
    assert [entry["action"] for entry in entries] == ["codes.load", "batch.create"]
    assert all(entry["actor"].startswith("key:") for entry in entries)


async def test_a_revoked_key_is_refused_soon(api: Api) -> None:
    from issuer.access.api_keys import revoke_key

    headers = await api.key("admin")
    key = api.services.keys.find(headers["Authorization"][7:])
    assert key is not None
    await revoke_key(api.owner, key.id, actor="test")
    async with asyncio.timeout(START_LIMIT_S):
        while (await api.get("/api/v1/batches", headers)).status_code != 401:
            await asyncio.sleep(0.02)


async def test_the_docs_page_loads_only_files_of_this_server_which_browsers_keep(api: Api) -> None:
    response = await api.client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # No element or attribute that the policy would not let run, and nothing of another server.
    assert not re.search(r"""<style|<script>|\s(?:on\w+|style)=|https?://""", response.text)
    assert (await api.client.get("/openapi.json")).json() == document()
    paths = re.findall(r'(?:src|href)="(/assets/[^"]+)"', response.text)
    assert len(paths) == 4
    for path in paths:
        packed, plain = [await api.client.get(path, headers={"accept-encoding": coding}) for coding in ("gzip", "br")]
        assert (packed.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
        assert packed.content == plain.content
        assert (plain.headers["cache-control"], plain.headers["vary"]) == (KEPT, "Accept-Encoding")
        digest = sha256(plain.content).hexdigest()
        assert path.split("/")[2] == digest[:16]
        name = path.rpartition("/")[2]
        # What is vendored is what its project published.
        assert ORIGIN["files"].get(name, digest) == digest
        problem(await api.client.get(f"/assets/{'0' * 16}/{name}"), 404)
    assert f'id="problem-{min(TITLES)}"' in response.text


async def test_ids_are_shown_in_lower_case(api: Api) -> None:
    batch, _ = await api.batch("A")
    shown = (await api.get(f"/api/v1/batches/{str(batch).upper()}")).json()
    assert UUID(shown["id"]) == batch
    assert shown["id"] == str(batch)


async def test_without_a_console_the_start_page_shows_the_address_by_which_it_was_called(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.client.get("/")).headers["location"] == "/console"
    monkeypatch.setattr(api.services, "settings", api.services.settings.model_copy(update={"console": "off"}))
    response = await api.client.get("/", headers={"host": "codes.example:8443", "accept-language": "de"})
    assert response.headers["content-type"].startswith("text/html")
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "curl http://codes.example:8443/api/v1/batches" in response.text
    assert "Bearer $KEY" in html.unescape(response.text)
    assert [path for path in ("/docs", "/openapi.json", "/readyz") if f'href="{path}"' not in response.text] == []
    assert '<html lang="de">' in response.text
    behind = await api.client.get("/", headers={"host": "a'<b>&", "x-forwarded-proto": "https"})
    assert "<b>" not in behind.text

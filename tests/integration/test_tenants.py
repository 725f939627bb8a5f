"""Separation of tenants: every kind of caller calls every route for objects of another client.

`VISITS` of tests/support/tenant_visits.py lists each route with requests for objects of another client; a route that is
not listed fails the test. What a kind of caller must be answered follows from the access that the route states.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from issuer.access.api_keys import revoke_key
from issuer.access.secrets import new_key
from issuer.contract.keys import limit_key
from issuer.http.auth import SCOPES, Access
from issuer.http.edge.limits import DELIVERY_PATH
from issuer.reports.formats import Format
from issuer.settings import Settings
from tests.support.api import Api, running_app
from tests.support.loyalty_visits import PROGRAM_NAME
from tests.support.tenant_visits import (
    VISITS,
    TenantWorld,
    access_of,
    call,
    filled,
    make_world,
    routed,
    text_of,
)
from tests.support.visits import OWN, REFUSED, Visit
from tests.support.wallet_keys import WalletKeys

BACKGROUND_TABLES: Final = {
    "incarnations", "registrations", "lineage", "workers", "audit_ends", "pulses", "series_minutes", "series_hours",
}  # fmt: skip
"""Tables that the processes write continuously without any request, and the ends of the audit log, which every act of
every client moves.
"""
SOON_EXPIRED_MS: Final = 60_000
"""Expiry of a kept call or a probe: it may end between two snapshots."""


@pytest_asyncio.fixture
async def api(settings: Settings, tmp_path: Path) -> AsyncIterator[Api]:
    # What is expected of each caller must not depend on how many callers failed before it.
    changes = {
        "failed_lookup_limit": "off", "secret_key": SecretStr(new_key()), "fealty_program": PROGRAM_NAME,
        **WalletKeys.make(tmp_path).settings,
    }  # fmt: skip
    async with running_app(settings.model_copy(update=changes)) as running:
        running.redeemer = running.admin = await running.key("admin", "redeem")
        yield running


Snapshot = dict[str, set[str]]


async def snapshot(api: Api) -> Snapshot:
    """Return every row of every table, and every key of Redis with its value that does not expire by itself.

    Without the beats of the partitions, which every process raises all the time.
    """
    tables = await api.owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found: Snapshot = {table: set() for (table,) in tables if table not in BACKGROUND_TABLES}
    query = " UNION ALL ".join(f"SELECT '{table}', t::text FROM \"{table}\" t" for table in found)
    for table, row in await api.owner.fetch(query):
        found[table].add(row)
    client = api.services.stores.redis.client
    # The rate limit tokens belong to the caller; counting its requests changes them.
    keys = [key async for key in client.scan_iter(count=1000) if not key.startswith(limit_key("", "")[:-2].encode())]
    async with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
            if key.endswith(b":state"):
                pipeline.hgetall(key)
            else:
                pipeline.execute_command("DUMP", key)
        answers: list[Any] = await pipeline.execute()
    for value in answers[1::2]:
        if isinstance(value, dict):
            del value[b"beat"]
    shown = zip(keys, answers[::2], answers[1::2], strict=True)
    found["Redis"] = {f"{key!r} {value!r}" for key, ttl_ms, value in shown if not 0 <= ttl_ms <= SOON_EXPIRED_MS}
    return found


class Bond(StrEnum):
    """Whose key it is: of the client whose objects are asked for, of another client, or of no client."""

    OWNER = "own"
    OTHER = "other client's"
    NONE = "unbound"


@dataclass(frozen=True)
class CallerKind:
    """A kind of caller, with its headers. Without `scope` it has no valid key, and every route refuses it equally."""

    name: str
    headers: Any
    scope: str = ""
    bond: Bond = Bond.NONE
    status: int = 401

    @property
    def sees(self) -> bool:
        """Whether the objects of the owner may be in an answer to this caller."""
        return bool(self.scope) and self.bond is not Bond.OTHER

    def may(self, access: Access) -> bool:
        """Return whether the caller has the rights that a route asks for."""
        if access is Access.PUBLIC:
            return True
        has_scope = bool(self.scope) and self.scope in SCOPES[access]
        return has_scope and (access is not Access.OPERATOR or self.bond is Bond.NONE)

    def expects(self, access: Access, visit: Visit, response: httpx.Response) -> bool:
        """Return whether the status is the one that this caller has to get."""
        status = response.status_code
        if access is Access.PUBLIC:
            return status in (200, 303)
        if not self.scope:
            return status == self.status
        if not self.may(access):
            return status == 403
        if self.bond is Bond.OTHER:
            return status in (403, 404) if visit.expected is REFUSED else response.is_success
        # A request before this one may have ended or used up what this one asks for.
        return status < 500 and status != 401 and (status != 403 or response.json()["code"] in _NOT_OF_THE_KEY)


_NOT_OF_THE_KEY: Final = ("batch_shared", "bound_key")
"""Refusals of a key with the right scope, because of what it asks for."""


async def make_kinds(api: Api, world: TenantWorld) -> list[CallerKind]:
    clients = {Bond.OTHER: world.caller, Bond.OWNER: world.owner, Bond.NONE: None}
    valid = await api.key("admin", "redeem")
    revoked = await api.key("admin", "redeem")
    ring, secret = api.services.keys, revoked["Authorization"].removeprefix("Bearer ")
    known = ring.find(secret)
    assert known is not None
    await revoke_key(api.owner, known.id, actor="test")
    while ring.find(secret) is not None:
        await asyncio.sleep(0.01)
    kinds = [
        CallerKind("no key", {}),
        CallerKind("malformed key", {"Authorization": "Basic aXNzdWVyOmlzc3Vlcg=="}),
        CallerKind("unknown key", {"Authorization": "Bearer isk_" + "x" * 43}),
        CallerKind("revoked key", revoked),
        CallerKind("two keys", [("Authorization", valid["Authorization"])] * 2, status=400),
    ]
    # A public key is always bound to a client. Those that may change objects of the owner come last.
    for bond, scope in (
        (Bond.OTHER, "redeem"), (Bond.OTHER, "public"), (Bond.OTHER, "admin"), (Bond.OWNER, "redeem"),
        (Bond.OWNER, "public"), (Bond.NONE, "redeem"), (Bond.OWNER, "admin"), (Bond.NONE, "admin"),
    ):  # fmt: skip
        key = await api.key(scope, client_id=clients[bond])
        kinds.append(CallerKind(f"{bond} {scope} key", key, scope, bond))
    return kinds


def leaks(response: httpx.Response, world: TenantWorld) -> list[str]:
    """Return what an answer reveals of the owner: in its status line, its headers or its body."""
    return world.found_in(f"{response.reason_phrase} {response.headers} {text_of(response)}")


def shown(response: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    return response.status_code, sorted(response.headers.items()), response.content


def check_answer(where: str, visit: Visit, response: httpx.Response, world: TenantWorld) -> None:
    if visit.expected is REFUSED:
        assert response.status_code in (403, 404), f"{where}: {response.status_code} {response.text}"
    else:
        assert response.is_success or response.is_redirect, f"{where}: {response.status_code} {response.text}"
    assert leaks(response, world) == [], f"{where} reveals another client: {text_of(response)}"


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


async def test_every_route_is_listed(api: Api) -> None:
    assert routed(api) == set(VISITS)
    # Shops sign what they deliver; no key is read there.
    assert [path for (_, path), visits in VISITS.items() if not visits] == [f"{DELIVERY_PATH}{{endpoint}}"]


@dataclass
class TenantFindings:
    """What was found wrong, and the number of cells of the table routes × kinds that were looked at."""

    cells: int = 0
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    leaking: list[str] = field(default_factory=list)
    revealing: list[str] = field(default_factory=list)


async def visit_all(
    api: Api, kind: CallerKind, world: TenantWorld, unknown: TenantWorld, findings: TenantFindings
) -> None:
    """Send every visit with the headers of a kind of caller, and again for what does not exist."""
    for (method, path), visits in VISITS.items():
        access = access_of(api, method, path)
        findings.cells += 1
        for visit in visits:
            # A workbook takes long, and has its visits in the test below.
            if (visit.endless and kind.may(access) and kind.sees) or visit.query.get("format") == Format.XLSX:
                continue
            where = f"{kind.name}: {method} {filled(visit.path, world)} {visit.query} {visit.json}"
            response = await call(api, method, visit, world, kind.headers)
            findings.requests += 1
            if not kind.expects(access, visit, response):
                findings.wrong.append(f"{where}: {response.status_code} {response.text[:200]}")
            if kind.sees:
                continue
            findings.leaking += [f"{where}: {fact}" for fact in leaks(response, world)]
            if visit.expected is REFUSED and not visit.names_shared:
                other = await call(api, method, visit, unknown, kind.headers)
                findings.requests += 1
                if shown(response) != shown(other):
                    findings.revealing.append(f"{where}: {shown(response)} but {shown(other)}")


def check_findings(findings: TenantFindings, kinds: list[CallerKind]) -> None:
    print(
        f"{len(VISITS)} routes × {len(kinds)} kinds of caller: {findings.cells} cells, {findings.requests} requests,"
        f" leaks {len(findings.leaking)}, answers that reveal what exists {len(findings.revealing)}"
    )
    for found in (findings.wrong, findings.leaking, findings.revealing):
        print(*found, sep="\n")
    assert (findings.wrong, findings.leaking, findings.revealing) == ([], [], [])
    assert findings.cells == len(kinds) * len(VISITS)


@pytest.mark.long
async def test_callers_without_rights_learn_nothing_on_any_route(api: Api) -> None:
    """They are answered as if nothing of the other client existed, and without a valid key they change nothing."""
    world = await make_world(api)
    kinds = [kind for kind in await make_kinds(api, world) if not kind.sees]
    unknown, findings = world.unknown(), TenantFindings()
    before = await snapshot(api)
    for kind in kinds:
        await visit_all(api, kind, world, unknown, findings)
        if not kind.scope:
            assert await snapshot(api) == before, f"{kind.name} changed something"
    check_findings(findings, kinds)
    assert len(kinds) == 8


@pytest.mark.long
async def test_callers_with_rights_are_let_in_on_every_route(api: Api) -> None:
    """The other kinds of caller: what they are refused is what their scope does not allow."""
    world = await make_world(api)
    kinds = [kind for kind in await make_kinds(api, world) if kind.sees]
    unknown, findings = world.unknown(), TenantFindings()
    for kind in kinds:
        if kind is kinds[-1]:
            # Another one: the key before it has changed and ended what it could.
            world = await make_world(api)
        await visit_all(api, kind, world, unknown, findings)
    check_findings(findings, kinds)
    assert len(kinds) == 5


async def test_a_key_of_another_client_finds_nothing_on_any_route(api: Api) -> None:
    world = await make_world(api)
    caller_key = await api.key("admin", "redeem", client_id=world.caller)
    before: Snapshot | None = None
    for (method, path), visits in VISITS.items():
        for visit in visits:
            where = f"{method} {path} {filled(visit.query, world)} {filled(visit.json, world)}"
            before = before or await snapshot(api)
            response = await call(api, method, visit, world, caller_key)
            check_answer(where, visit, response, world)
            after = await snapshot(api)
            check_change(where, visit, before, after, world)
            # What a change leads to may not have ended yet.
            before = None if visit.expected is OWN else after


@pytest.mark.long
async def test_every_request_succeeds_with_the_key_of_the_operator(api: Api) -> None:
    """The refusals above are due to the key: the requests themselves are valid."""
    world = await make_world(api)
    shown = ""
    for (method, path), visits in VISITS.items():
        for visit in visits:
            if visit.endless:
                continue
            response = await call(api, method, visit, world, api.admin)
            is_right = response.is_success or response.is_redirect
            assert is_right, f"{method} {path}: {response.status_code} {response.text}"
            shown += text_of(response)
    assert len(world.found_in(shown)) == len(world.facts()) + len(world.COUNTS)


@pytest.mark.long
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

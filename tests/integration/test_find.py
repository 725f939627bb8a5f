"""The search: everything that one text names, with its time line; masked codes, and one shown in full."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from issuer.access.audit import list_entries
from issuer.finding.searches import CUSTOMERS, INDEXES, MAX_FOUND
from issuer.http.admin.finding import search
from issuer.http.auth import Caller
from issuer.http.problems.problem import ProblemError
from tests.support.api import Api, problem
from tests.support.coupons import Till
from tests.support.loyalty import LoyaltyShop
from tests.support.recording import drain

pytestmark = pytest.mark.shared_app

FIND: Final = "/api/v1/find"
_ISSUE_ALL: Final = """
INSERT INTO redemptions (pool_id, seq, batch_id, code, customer_id, redeemed_at, api_key_id, epoch)
SELECT p.id, c.seq, p.batch_id, c.code, $2, now() - interval '1 day' + c.seq * interval '1 minute', 0, 1
FROM pools p JOIN codes c ON c.pool_id = p.id WHERE p.batch_id = $1"""


async def find(api: Api, text: str, key: Any = None) -> dict[str, Any]:
    response = await api.client.get(FIND, params={"q": text}, headers=key or api.admin)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def kinds(found: dict[str, Any]) -> list[str]:
    """What happened, oldest first; events of one instant in any order."""
    return [event["event"] for event in reversed(found["events"])]


def searched(found: dict[str, Any]) -> dict[str, int]:
    return {one["search"]: one["found"] for one in found["found_by"]}


async def test_a_code_is_found_masked_with_its_state_and_shown_on_request(api: Api) -> None:
    batch, client = await api.batch("FINDME-0001", "FINDME-0002")
    assert (await api.redeem(batch, client, "anna-of-find")).json() == {"code": "FINDME-0001"}
    before = await find(api, " FINDME-0001\u200b")
    assert (before["codes"][0]["state"], kinds(before)) == ("backlog", ["loaded"])
    await drain(api.services.stores)
    found = await find(api, "FINDME-0001")
    (code,) = found["codes"]
    assert (code["code"], code["seq"], code["state"], code["batch_id"]) == ("••••0001", 1, "redeemed", str(batch))
    assert sorted(kinds(found)) == ["issued", "loaded", "recorded"]
    assert kinds(found)[0] == "loaded"
    (issued,) = [event for event in found["events"] if event["event"] == "issued"]
    assert (issued["customer"], found["cut"], "FINDME" in str(found)) == ("anna-of-find", False, False)
    assert (await find(api, "FINDME-0002"))["codes"][0]["state"] == "available"
    by_customer = await find(api, "anna-of-find")
    assert searched(by_customer) == {"customer": 1}
    assert by_customer["events"] == found["events"]

    named = {name: code[name] for name in ("batch_id", "client_id", "seq")}
    headers = {**api.admin, "Idempotency-Key": "reveal-1"}
    for code in ("FINDME-0001", None):
        shown = await api.client.post(f"{FIND}/reveal", json=named, headers=headers)
        assert (shown.status_code, shown.json()) == (200, {"code": code})
        assert shown.headers["cache-control"] == "no-store"
    kept = "SELECT count(*) FROM kept_answers WHERE position(convert_to('FINDME', 'UTF8') IN body) > 0"
    assert await api.owner.fetchval(kept) == 0
    acts = [entry for entry in (await list_entries(api.owner)).items if entry.action == "code.reveal"]
    assert [(entry.subject, entry.detail) for entry in acts] == [(str(batch), {"client_id": str(client), "seq": 1})]
    bound = await api.key("admin", client_id=client)
    other = await api.key("admin", client_id=uuid4())
    assert await find(api, "FINDME-0001", bound) == found
    for text in ("FINDME-0001", "anna-of-find"):
        nothing = await find(api, text, other)
        assert (nothing["found_by"], nothing["codes"], nothing["events"]) == ([], [], [])
    for body, status, key in (
        ({**named, "seq": 3}, 404, bound),
        ({**named, "seq": "1"}, 400, bound),
        ({**named, "client_id": None}, 404, other),
        (named, 403, other),
    ):
        problem(await api.client.post(f"{FIND}/reveal", json=body, headers=key), status)
    for text in ("", "\u200b", "x" * 256):
        problem(await api.client.get(FIND, params={"q": text}, headers=api.admin), 400)
    problem(await api.get(FIND), 400)


async def test_only_who_is_bound_to_a_client_is_limited_in_what_is_not_found(api: Api) -> None:
    async def search_often(client_id: UUID | None) -> None:
        caller = Caller("operator:ann", client_id, address="192.0.2.44")
        context: Any = SimpleNamespace(services=api.services, caller=caller)
        for number in range(12):
            assert not (await search(context, f"unknown-{number}")).by

    await search_often(None)
    with pytest.raises(ProblemError):
        await search_often(uuid4())


async def test_what_a_loss_did_to_a_code_is_in_its_time_line(api: Api) -> None:
    batch, _ = await api.batch("LOST-0001", "LOST-0002")
    pool = await api.owner.fetchval("SELECT id FROM pools WHERE batch_id = $1", batch)
    # As a recovery and a release leave it: the code has a new number, and the old one is listed.
    await api.owner.execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 1, 7)", pool)
    held = await find(api, "LOST-0001")
    assert (held["codes"][0]["state"], kinds(held)) == ("quarantined", ["loaded", "quarantined"])
    assert await api.owner.fetchval("SELECT requeue_quarantined($1, '{1}')", pool) == 1
    found = await find(api, "LOST-0001")
    assert (found["codes"][0]["seq"], sorted(kinds(found))) == (3, ["loaded", "quarantined", "released"])
    assert "number 3" in next(event["note"] for event in found["events"] if event["event"] == "released")
    await api.owner.execute(
        "INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw, resolved_at)"
        " VALUES (0, '1-1', 1, $1, 3, 'no such seq', '{}', now())",
        pool,
    )
    await api.owner.execute("INSERT INTO anomalies (kind, pool_id, seq, detail) VALUES ('odd', $1, 3, '{}')", pool)
    assert {"dead_letter", "resolved", "anomaly"} < set(kinds(await find(api, "LOST-0001")))


async def test_a_coupon_its_uses_and_their_orders(api: Api) -> None:
    till = await Till.of(api)
    coupon = await till.make("FIND-COUPON-X", uses=5)
    used = (await till.use(coupon["code"], customer_id="kim", order_id="A-1001")).json()
    await drain(api.services.stores)
    await till.reverse(used["consumption_id"])
    by_code, by_order, by_use = [await find(api, text) for text in (" find coupon x", "A-1001", used["consumption_id"])]
    assert (searched(by_code), searched(by_order), searched(by_use)) == ({"coupon": 1}, {"order": 1}, {"use": 1})
    assert kinds(by_order) == kinds(by_use) == ["issued", "recorded", "reversed"]
    assert sorted(kinds(by_code)) == ["issued", "loaded", "recorded", "reversed"]
    assert by_use["events"][-1]["use_id"] == used["consumption_id"]
    assert by_code["codes"][0] | {"code": "••••ON-X", "seq": 0, "state": None} == by_code["codes"][0]
    forged = used["consumption_id"][:-1] + ("A" if used["consumption_id"][-1] != "A" else "B")
    assert (await find(api, forged))["found_by"] == []


async def test_a_member_is_found_by_everything_that_names_it(api: Api) -> None:
    shop = await LoyaltyShop.of(api)
    mail = "Mia.Find@Example.org"
    mia = await shop.join(ref="mia-find", email=mail, phone="+44 20 7946 0999")
    assert (
        await shop.post("earn", {"amount": "7.00", "order_id": "B-77", "source": "shop"}, member=mia["id"])
    ).is_success
    assert (await shop.adjust(50, member=mia["id"])).is_success
    assert (await shop.post("holds", {"points": 5}, member=mia["id"])).is_success
    issued = await shop.program_post("cards", {"count": 1, "member": mia["id"]})
    number = issued.json()["items"][0]["number"]
    everything = ["card_issued", "held", "joined", "points", "points"]
    for text, by in (
        (mia["id"], "member"), ("mia-find", "member"), (mail.lower(), "email"), ("+442079460999", "phone"),
        (number.lower(), "card"),
    ):  # fmt: skip
        found = await find(api, text, shop.key)
        assert (by in searched(found), [member["id"] for member in found["members"]]) == (True, [mia["id"]]), text
        assert sorted(kinds(found)) == everything, text
        assert number not in str(found)
    by_order = await find(api, "B-77")
    assert [(event["event"], event["points"], event["order_id"]) for event in by_order["events"]] == [
        ("points", "7", "B-77")
    ]
    assert (await find(api, mail, await api.key("admin", client_id=uuid4())))["found_by"] == []

    batch, other = await api.batch("NOT-MIAS")
    assert (await api.redeem(batch, other, "mia-find")).status_code == 200
    await drain(api.services.stores)
    # Another client's customer has the same id: only who searches for that id means both.
    assert sorted(kinds(await find(api, mail))) == everything
    assert set(kinds(await find(api, "mia-find"))) == {*everything, "issued", "recorded", "loaded"}


async def test_of_a_customer_with_many_codes_only_the_newest_are_read(api: Api) -> None:
    batch, _ = await api.batch(*(f"MANY-{number:03}" for number in range(150)))
    customer = uuid4()
    await api.owner.execute(_ISSUE_ALL, batch, customer)
    found = await find(api, str(customer))
    assert (searched(found), found["cut"]) == ({"customer": MAX_FOUND}, True)
    newest = [event["code"]["seq"] for event in found["events"] if event["event"] == "issued"]
    assert newest == list(range(150, 50, -1))
    async with api.owner.acquire() as connection, connection.transaction():
        for node in ("seqscan", "bitmapscan", "sort"):
            await connection.execute(f"SET LOCAL enable_{node} = off")
        plan = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING off) {CUSTOMERS}", None, [customer], [None])
    scans = [re.findall(r"actual rows=([\d.]+) loops=(\d+)", row[0])[0] for row in plan if " on redemptions " in row[0]]
    assert max(float(rows) * int(loops) for rows, loops in scans) < 110, plan


async def test_an_index_pays_for_each_search(api: Api) -> None:
    uuid, number = uuid4(), 1
    values: dict[str, Any] = {"uuid": uuid, "uuid[]": [uuid], "text": "x", "int8": number, "int8[]": [number]}
    async with api.owner.acquire() as connection, connection.transaction():
        # The tables of a test are small: what counts is that no index is missing.
        await connection.execute("SET LOCAL enable_seqscan = off")
        for statement, indexes in INDEXES.items():
            types = [one.name for one in await _parameters(connection, statement)]
            given = [None if place == 0 and name == "uuid" else values[name] for place, name in enumerate(types)]
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *given))
            for index in indexes:
                assert index in plan, f"{index} is not used:\n{plan}"
            for table in ("codes", "redemptions", "consumptions", "orders", "members", "cards"):
                assert f"Seq Scan on {table} " not in plan, plan


async def _parameters(connection: Any, statement: str) -> tuple[asyncpg.Type, ...]:
    prepared = await connection.prepare(statement)
    found: tuple[asyncpg.Type, ...] = prepared.get_parameters()
    return found

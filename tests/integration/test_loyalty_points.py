"""Points over HTTP: earned, held, spent and refunded, each request once; what is not valid changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from issuer.settings import Settings
from tests.support.api import Api, problem, running_app
from tests.support.loyalty import PROGRAMS, LoyaltyShop
from tests.support.servers import START_LIMIT_S

pytestmark = pytest.mark.shared_app

ORDER: Final = {"amount": "12.50", "currency": "EUR", "order_id": "A-1", "source": "shop"}


@pytest_asyncio.fixture
async def shop(api: Api) -> LoyaltyShop:
    return await LoyaltyShop.of(api)


@pytest.mark.own_app
async def test_points_are_earned_spent_and_refunded_each_request_once(shop: LoyaltyShop) -> None:
    earned = await shop.post("earn", ORDER, **{"Idempotency-Key": "one"})
    assert (earned.status_code, earned.json()["balance"]["available"]) == (201, 12), earned.text
    entry = earned.json()["entry"]
    assert (entry["seq"], entry["op"], entry["points"], entry["change"]) == (1, "earn", 12, 12)
    assert entry["order"] == {"source": "shop", "order_id": "A-1"}
    again = await shop.post("earn", ORDER, **{"Idempotency-Key": "one"})
    assert (again.json(), again.headers["idempotency-replayed"]) == (earned.json(), "true")
    refused = problem(await shop.post("earn", {**ORDER, "order_id": "A-2"}, **{"Idempotency-Key": "one"}), 422)
    assert refused["code"] == "idempotency_key_reused"
    # The same order from another system, months later: the natural key knows it.
    for headers in ({}, {"Idempotency-Key": "two"}):
        known = await shop.post("earn", ORDER, **headers)
        assert (known.status_code, known.json()["entry"], known.headers["idempotency-replayed"]) == (200, entry, "true")

    tried = await shop.post("spend?dry_run=true", {"points": 5}, **{"Idempotency-Key": "three"})
    assert (tried.status_code, tried.json()["balance"]["available"], tried.headers["dry-run"]) == (201, 7, "true")
    spent = (await shop.post("spend", {"points": "5", "reason": "tea"}, **{"Idempotency-Key": "three"})).json()
    assert (spent["entry"]["change"], spent["balance"]["available"], spent["entry"]["reason"]) == (-5, 7, "tea")
    assert (await shop.post("spend", {"points": "5", "reason": "tea"}, **{"Idempotency-Key": "three"})).json() == spent
    with capture_logs() as logs:
        refused = problem(await shop.post("spend", {"points": 8}), 403)
    # An answer about the account, and nothing for the security log.
    assert [line for line in logs if line.get("category") == "security"] == []
    figures = {name: refused[name] for name in ("code", "available", "required", "debt")}
    assert figures == {"code": "insufficient_points", "available": 7, "required": 8, "debt": 0}

    # A refund of 2.50 leaves 10.00 of 12.50, so 9 of 12 points; then the rest.
    refund = (
        await shop.program_post("refunds", {"order_id": "A-1", "source": "shop", "amount_refunded": "2.50"})
    ).json()
    assert (refund["entry"]["op"], refund["entry"]["points"], refund["entry"]["reverses"]) == (
        "take_back",
        3,
        entry["id"],
    )
    undone = (await shop.post(f"entries/{spent['entry']['id']}/reverse", {"points": 2})).json()
    assert (undone["entry"]["op"], undone["balance"]["available"]) == ("undo", 6)
    rest = (await shop.post(f"entries/{entry['id']}/reverse", {})).json()
    assert (rest["entry"]["points"], rest["balance"]["available"], rest["balance"]["debt"]) == (9, 0, 3)
    assert problem(await shop.post(f"entries/{entry['id']}/reverse", {}), 409)["code"] == "already_reversed"

    held = await shop.adjust(10)
    assert held.json()["balance"]["available"] == 7
    listed = await shop.items("entries?limit=2")
    assert [one["op"] for one in listed] == ["adjust_up", "take_back"]
    ops = [one["op"] for one in await shop.items("entries")]
    assert ops == ["adjust_up", "take_back", "undo", "take_back", "spend", "earn"]
    assert (await shop.member())["available"] == 7


@pytest.mark.own_app
async def test_a_hold_is_captured_in_part_or_released_once(shop: LoyaltyShop) -> None:
    await shop.adjust(100)
    placed = (await shop.post("holds", {"points": 60})).json()
    assert (placed["hold"]["state"], placed["balance"]["available"], placed["balance"]["held"]) == ("open", 40, 60)
    path = f"holds/{placed['hold']['id']}"
    assert problem(await shop.post(f"{path}/capture", {"points": 61}), 409)["code"] == "hold_exceeded"
    captured = (await shop.post(f"{path}/capture", {"points": 50})).json()
    assert (captured["balance"]["available"], captured["balance"]["held"]) == (50, 0)
    for what in ("capture", "release"):
        assert problem(await shop.post(f"{path}/{what}"), 409)["code"] == "hold_settled"
    second = (await shop.post("holds", {"points": 50})).json()
    assert (await shop.post(f"holds/{second['hold']['id']}/release")).json()["balance"]["available"] == 50
    assert problem(await shop.post(f"holds/{uuid4()}/release"), 404)["code"] == "hold_not_found"


async def test_stored_value_is_shown_with_the_digits_of_its_currency(api: Api) -> None:
    shop = await LoyaltyShop.of(api, unit="EUR", terms={})
    for points in ("0.1", "0.2"):
        await shop.adjust(points)
    assert (await shop.member())["available"] == "0.30"
    spent = (await shop.post("spend", {"points": "0.05"})).json()
    assert (spent["entry"]["points"], spent["entry"]["change"], spent["balance"]["available"]) == (
        "0.05",
        "-0.05",
        "0.25",
    )
    assert problem(await shop.post("spend", {"points": "0.26"}), 403)["required"] == "0.26"
    # JSON numbers are read as they are written.
    exact = await shop.send("adjust", b'{"points": 0.1, "reason": "x"}')
    assert exact.json()["balance"]["available"] == "0.35"
    refused = await shop.send("adjust", b'{"points": 0.30000000000000004, "reason": "x"}')
    assert problem(refused, 400)["code"] == "invalid_amount"


def bad_points() -> list[tuple[str, dict[str, Any], int, str]]:
    """Points, amounts and orders that cannot be: (path, body, status, code)."""
    whole: list[Any] = [0, -1, "-5", "0", 10**13, "1e3", "NaN", "Infinity", 1.5, "1.0", True, None, [], "٣", " 5", "5 "]
    found = [("spend", {"points": points}, 400, "invalid_amount") for points in whole]
    amounts: list[Any] = [0, "0.00", -1, "-1.00", "1.005", "NaN", "1e3", 10**13, "1,00", "", " ", True, [], 1e300]
    found += [("earn", {**ORDER, "amount": amount}, 400, "invalid_amount") for amount in (*amounts, None)]
    found += [("earn", {**ORDER, "currency": currency}, 400, code) for currency, code in
              (("USD", "other_currency"), ("EURO", "invalid_amount"), (978, "invalid_amount"))]  # fmt: skip
    found += [
        ("earn", {**ORDER, "order_id": ""}, 400, "invalid_request"),
        ("earn", {"amount": "1.00"}, 400, "invalid_request"),
        ("earn", {"points": 5, "order_id": "A-2"}, 400, "invalid_request"),
        ("earn", {"points": 5, "pints": 5}, 400, "invalid_request"),
        ("earn", {**ORDER, "amount": "12.49"}, 409, "order_differs"),
        ("adjust", {"points": 5}, 400, "reason_needed"),
        ("adjust", {"points": -13, "reason": "x"}, 403, "insufficient_points"),
        ("adjust", {"points": 0, "reason": "x"}, 400, "invalid_amount"),
        ("adjust", {"points": 5, "reason": "x" * 201}, 400, "invalid_request"),
        ("adjust", {"points": 5, "reason": "\u0000"}, 400, "invalid_request"),
        ("holds", {"points": 5, "expires_at": "2020-01-01T00:00:00Z"}, 400, "invalid_request"),
        ("holds", {"points": 5, "expires_at": "9999-01-01T00:00:00Z"}, 400, "invalid_request"),
        ("entries/0-1/reverse", {}, 404, "entry_not_found"),
        ("entries/x/reverse", {}, 404, "entry_not_found"),
        ("holds/x/release", {}, 400, "invalid_hold_id"),
        ("spend?dry_run=yes", {"points": 1}, 400, "invalid_request"),
    ]  # fmt: skip
    return found


def bad_refunds() -> list[tuple[dict[str, Any], int, str]]:
    order = {"order_id": "A-1", "source": "shop"}
    return [
        ({**order, "order_id": "A-9"}, 404, "order_not_found"),
        ({"order_id": "A-1"}, 404, "order_not_found"),
        ({**order, "amount_refunded": "12.51"}, 409, "refund_above_order"),
        ({**order, "amount_refunded": "0.00"}, 400, "invalid_amount"),
        ({**order, "amount_refunded": "1.00", "currency": "USD"}, 400, "other_currency"),
    ]


def bad_programs() -> list[tuple[dict[str, Any], str, str]]:
    """Programs that cannot be: (fields, code, what the error names)."""
    rate = {"points": 1, "per": "1.00", "currency": "EUR"}
    terms: list[tuple[Any, str]] = [
        ([], "terms"), ({"ern": rate}, "ern"), ({"earn": {**rate, "per": "0"}}, "earn"),
        ({"earn": {**rate, "per": 1.5}}, "earn.per"), ({"earn": {**rate, "points": 0}}, "earn.points"),
        ({"earn": {**rate, "currency": "XXQ"}}, "earn"), ({"pending_days": 367}, "pending_days"),
        ({"expiry": {"days": 1, "months": 1}}, "expiry"), ({"expiry": {"weeks": 1}}, "weeks"),
        ({"on_refund": "ignore"}, "on_refund"), ({"min_spend": 11, "limits": {"spend_entry": 10}}, "min_spend"),
        ({"min_spend": 11, "limits": {"spend_day": 10}}, "min_spend"), ({"max_balance": 10**13}, "max_balance"),
        ({"min_spend": 11, "max_balance": 10}, "min_spend"),
        ({"pending_days": 11, "expiry": {"days": 10}}, "pending_days"),
        ({"pending_days": 29, "expiry": {"months": 1}}, "pending_days"),
        ({"tiers": [{"name": "a", "lifetime": 1}, {"name": "a", "lifetime": 2}]}, "tiers"),
        ({"tiers": [{"name": "a", "lifetime": 1}, {"name": "b", "lifetime": 1}]}, "tiers"),
        ({"limits": {"earn_entry": True}}, "limits.earn_entry"),
    ]  # fmt: skip
    found = [({"terms": given}, "invalid_terms", named) for given, named in terms]
    found += [
        ({"timezone": zone}, "invalid_program", "timezone") for zone in ("Europe/Atlantis", "CEST+2", "../etc", "")
    ]
    found += [({"unit": "EUR", "terms": {"earn": {**rate, "currency": "USD"}}}, "invalid_terms", "earn.currency")]
    found += [({"unit": unit}, "invalid_program", "unit") for unit in ("stars", "XXQ")]
    found += [({"name": name}, "invalid_program", "name") for name in ("", " ", "x" * 201, str(uuid4()), "a\u202eb")]
    return found


@pytest.mark.own_app
async def test_what_is_not_valid_is_refused_and_changes_nothing(shop: LoyaltyShop) -> None:
    assert (await shop.post("earn", ORDER)).status_code == 201
    before = await shop.tables()
    for path, body, status, code in bad_points():
        response = await shop.post(path, body)
        assert (response.status_code, response.json()["code"]) == (status, code), f"{path} {body}: {response.text}"
    # A request that is only tried is checked as one that is meant.
    unkeyed = await shop.post("spend?dry_run=true", {"points": 1}, **{"Idempotency-Key": "x" * 256})
    assert problem(unkeyed, 400)["code"] == "invalid_idempotency_key"
    raw = await shop.send("spend", b'{"points": NaN}')
    assert problem(raw, 400)["code"] == "unparsable_json"
    for refund, status, code in bad_refunds():
        response = await shop.program_post("refunds", refund)
        assert (response.status_code, response.json()["code"]) == (status, code), f"{refund}: {response.text}"
    for fields, code, named in bad_programs():
        new = {"name": "New", "client": str(shop.client_id), **fields}
        if not {"name", "unit"} & fields.keys():
            changed = await shop.api.client.patch(shop.path, json=fields, headers=shop.key)
            assert problem(changed, 400)["code"] == code, changed.text
        refused = problem(await shop.api.client.post(PROGRAMS, json=new, headers=shop.key), 400)
        assert refused["code"] == code, f"{fields}: {refused}"
        assert named in refused["error"], f"{fields}: {refused}"
    assert await shop.tables() == before


async def test_figures_and_exports_of_a_program(api: Api) -> None:
    terms = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}, "expiry": {"end_of_year": 1}}
    shop = await LoyaltyShop.of(api, terms=terms, timezone="America/New_York")
    assert (await shop.post("earn", {**ORDER, "amount": "100.00"})).status_code == 201
    spent = (await shop.post("spend", {"points": 30})).json()["entry"]["id"]
    await shop.post(f"entries/{spent}/reverse", {"points": 10})
    await shop.program_post("refunds", {"order_id": "A-1", "source": "shop", "amount_refunded": "20.00"})
    berta = await shop.join(ref="berta", email="berta@example.org")
    await shop.adjust(-7, member=berta["id"], allow_debt=True)
    stats = (await api.get(f"{shop.path}/stats", shop.key)).json()
    total = {"earned": 100, "spent": 30, "restored": 10, "expired": 0, "taken_back": 20, "written_off": 0, "added": 0}
    assert stats["total"] == {**total, "removed": 7}
    assert stats["redemption_rate"] == "0.2500"
    (day,) = stats["days"]
    assert day == {"day": day["day"], **stats["total"]}
    # Points that expire with a year expire in its last month, where the program is.
    december = f"{int(day['day'][:4]) + 1}-12"
    assert stats["outstanding"] == {
        "available": 60, "held": 0, "pending": 0, "by_month": [{"month": december, "points": 60}],
    }  # fmt: skip
    assert (stats["members"], stats["debts"], stats["top_rewards"]) == (2, {"accounts": 1, "points": 7}, [])
    before = (await api.get(f"{shop.path}/stats?to=2020-01-01T00:00:00Z", shop.key)).json()
    assert (before["days"], before["redemption_rate"]) == ([], None)
    for period in ("from=2030-01-01T00:00:00Z&to=2029-01-01T00:00:00Z", "from=2020-01-01T00:00:00Z"):
        assert problem(await api.get(f"{shop.path}/stats?{period}", shop.key), 400)["code"] == "invalid_request"

    other = await LoyaltyShop.of(api)
    for name, rows in (("points", 5), ("members", 2)):
        for query, expected in (
            (f"program={shop.path.rpartition('/')[2]}", rows),
            (f"client_id={shop.client_id}", rows),
        ):
            response = await api.get(f"/api/v1/reports/{name}?format=ndjson&{query}", api.admin)
            *lines, last = response.text.splitlines()
            assert (len(lines), last) == (expected, f'{{"rows":{expected}}}')
        # One's own: a member and no entry.
        lines = (await api.get(f"/api/v1/reports/{name}?format=ndjson", other.key)).text.splitlines()
        assert len(lines) == (2 if name == "members" else 1)
        refused = await api.get(f"/api/v1/reports/{name}?program={shop.path.rpartition('/')[2]}", other.key)
        assert problem(refused, 404)["code"] == "program_not_found"


WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_operations_of_one_client_share_a_transaction_though_it_has_few_slots(settings: Settings) -> None:
    """While the transaction of the first one waits for its account, all others come to wait for the next one."""
    async with running_app(settings.model_copy(update={"postgres_pool_size": 4})) as api:
        shop, account = await LoyaltyShop.of(api), "SELECT FROM accounts FOR UPDATE"
        async with api.owner.acquire() as connection, asyncio.TaskGroup() as group, connection.transaction():
            await connection.execute(account)
            requests = [group.create_task(shop.adjust(1))]
            async with asyncio.timeout(START_LIMIT_S):
                while not await api.owner.fetchval(WAITING):
                    await asyncio.sleep(0.01)
                requests += (group.create_task(shop.adjust(1)) for _ in range(19))
                while api.services.loyalty.waiting < 19:
                    assert not any(request.done() for request in requests)
                    await asyncio.sleep(0.01)
        assert {request.result().status_code for request in requests} == {201}
        assert await api.owner.fetchval("SELECT count(DISTINCT xmin::text) FROM entries") == 2


@pytest.mark.own_app
async def test_a_merged_member_is_its_target_with_both_histories_until_both_are_erased(api: Api) -> None:
    shop = await LoyaltyShop.of(api)
    berta = await shop.join(ref="berta", email="berta@example.org")
    await shop.adjust(5, member=berta["id"])
    await shop.adjust(7)
    merged = await shop.post("merge", {"into": "anna"}, member=berta["id"])
    assert merged.status_code == 200, merged.text
    anna = await shop.member()
    assert (anna["available"], await shop.member("berta"), await shop.member(berta["id"])) == (12, anna, anna)
    assert (await shop.adjust(1, member="berta")).json()["balance"]["available"] == 13
    found = (await api.get(f"{shop.path}/members?email=BERTA%40example.org", shop.key)).json()["items"]
    assert [one["id"] for one in found] == [shop.anna]
    assert len((await api.get(f"{shop.path}/members", shop.key)).json()["items"]) == 1

    entries = await shop.items("entries")
    assert [one["op"] for one in entries if one["op"].startswith("adjust")] == ["adjust_up", "adjust_up", "adjust_up"]
    assert {one["id"].partition("-")[0] for one in entries} == {str(anna["account_id"]), str(berta["account_id"])}
    paged: list[Any] = []
    cursor = ""
    while cursor is not None:
        page = (
            await api.get(f"{shop.path}/members/berta/entries?limit=2{cursor and '&cursor='}{cursor}", shop.key)
        ).json()
        paged, cursor = paged + page["items"], page["next_cursor"]
    assert paged == entries
    path = f"{shop.path}/members/{shop.anna}"
    exported = (await api.get(f"{path}/export", shop.key)).json()
    assert [one["ref"] for one in exported["members"]] == ["anna", "berta"]
    assert (len(exported["entries"]), len(exported["accounts"])) == (len(entries), 2)

    await api.client.delete(path, headers=shop.key)
    assert await api.owner.fetchval("SELECT count(*) FROM members WHERE erased_at IS NULL") == 0
    assert problem(await api.get(f"{shop.path}/members/berta", shop.key), 404)["code"] == "member_not_found"
    assert len(await shop.items("entries")) == len(entries)

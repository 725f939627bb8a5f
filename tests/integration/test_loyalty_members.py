"""Programs and members over HTTP: found by name, id, ref and search; erased without a trace of the person."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
import structlog

from issuer.loyalty.card_number import draw_numbers, show_number
from tests.support.api import Api, problem
from tests.support.servers import PostgresServer

PROGRAMS: Final = "/api/v1/loyalty/programs"
ANNA: Final = {
    "ref": "kunde-7", "email": "Anna@Example.org", "phone": "+44 20 7946 0958", "name": "Anna Smith-Jones",
    "locale": "de-at", "marketing": True,
}  # fmt: skip
PERSONAL: Final = ("kunde-7", "anna@example.org", "442079460958", "smith", "berta", "annb@")
TERMS: Final = {"earn": {"points": 1, "per": "10.00", "currency": "EUR"}}


async def post(api: Api, path: str, body: Any, key: Any = None, **headers: str) -> httpx.Response:
    return await api.client.post(path, json=body, headers={**(key or api.admin), **headers})


async def patch(api: Api, path: str, body: Any, key: Any = None) -> httpx.Response:
    return await api.client.patch(path, json=body, headers=key or api.admin)


async def items(api: Api, path: str, key: Any = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(path, key)).json()["items"]
    return found


async def test_a_program_is_found_by_name_and_id_and_every_change_of_its_terms_is_a_version(api: Api) -> None:
    client = uuid4()
    body = {"client": str(client), "name": " Tea club ", "timezone": "Europe/London", "terms": TERMS}
    assert (await post(api, PROGRAMS + "?dry_run=true", body)).headers["dry-run"] == "true"
    assert await items(api, PROGRAMS) == []
    keyed = {"Idempotency-Key": "one"}
    response = await post(api, PROGRAMS, body, **keyed)
    assert response.status_code == 201
    tea = response.json()
    assert (tea["name"], tea["unit"], tea["state"], tea["terms_number"]) == ("Tea club", "points", "active", 1)
    assert (await post(api, PROGRAMS, body, **keyed)).headers["idempotency-replayed"] == "true"
    assert problem(await post(api, PROGRAMS, {**body, "name": "X"}, **keyed), 422)["code"] == "idempotency_key_reused"
    assert problem(await post(api, PROGRAMS, body), 409)["code"] == "program_exists"
    path = f"{PROGRAMS}/Tea%20club"
    assert (await api.get(response.headers["location"])).json() == (await api.get(path)).json() == tea

    changed = (await patch(api, path, {"terms": {"pending_days": 14}})).json()
    assert changed["terms"] == {**tea["terms"], "pending_days": 14}
    assert changed["terms_number"] == 2
    # The same again is no version.
    assert (await patch(api, path, {"terms": {"pending_days": 14}, "state": "paused"})).json()["terms_number"] == 2
    tried = await patch(api, path + "?dry_run=true", {"name": "Coffee club"})
    assert (tried.json()["name"], (await api.get(path)).json()["state"]) == ("Coffee club", "paused")

    bound, other = await api.key("admin", client_id=client), await api.key("admin", client_id=uuid4())
    assert [program["id"] for program in await items(api, PROGRAMS, bound)] == [tea["id"]]
    assert await items(api, PROGRAMS, other) == []
    for given in ("Tea%20club", tea["id"]):
        assert problem(await api.get(f"{PROGRAMS}/{given}", other), 404)["code"] == "program_not_found"
    # Another client may have the same name: an operator has to give the id then.
    twin = (await post(api, PROGRAMS, {"name": "Tea club"}, other)).json()
    assert set(problem(await api.get(path), 409)["program_ids"]) == {tea["id"], twin["id"]}
    assert (await api.get(path, bound)).json()["id"] == tea["id"]
    # An ended program leaves its name to the next one.
    assert (await patch(api, path, {"state": "ended"}, bound)).status_code == 200
    assert problem(await patch(api, path, {"state": "active"}, bound), 409)["code"] == "program_ended"
    assert (await api.get(path, bound)).json()["state"] == "ended"
    assert (await post(api, PROGRAMS, {"name": "Tea club"}, bound)).status_code == 201
    assert (await api.get(path, bound)).json()["state"] == "active"


async def test_members_are_found_changed_joined_and_shown_with_their_balance(api: Api) -> None:
    client = uuid4()
    till, admin = await api.key("redeem", client_id=client), await api.key("admin", client_id=client)
    tea = (
        await post(api, PROGRAMS, {"name": "Tea", "terms": {"tiers": [{"name": "new", "lifetime": 0}]}}, admin)
    ).json()
    await post(api, PROGRAMS, {"name": "Coffee"}, admin)
    members = f"{PROGRAMS}/Tea/members"
    assert (await post(api, members + "?dry_run=true", ANNA, till)).status_code == 201
    response = await post(api, members, ANNA, till)
    assert response.status_code == 201, response.text
    anna = response.json()
    assert (anna["email"], anna["phone"], anna["locale"]) == ("Anna@Example.org", "+442079460958", "de-AT")
    assert anna["marketing_at"] is not None
    balance = {"available": 0, "held": 0, "pending": 0, "debt": 0, "lifetime": 0, "tier": "new", "expiring": []}
    assert {name: anna[name] for name in balance} == balance
    assert (await api.get(response.headers["location"], till)).json() == anna
    assert (await api.get(f"{members}/kunde-7", till)).json() == anna

    # A client has an address and a ref once, in whatever case.
    for taken in ({"email": "ANNA@example.ORG"}, {"ref": "kunde-7", "email": "b@example.org"}):
        refused = problem(await post(api, members, taken, till), 409)
        assert (refused["code"], refused["member_id"]) == ("member_exists", anna["id"])
    berta = (await post(api, members, {"name": "Berta Müller", "ref": "kunde-8"}, till)).json()
    exact = ["email=ANNA%40example.org", "phone=+442079460958", "phone=0044%2020%207946%200958", "ref=kunde-7"]
    for query in (*exact, "q=smith", "q=ANN", "q=anna+jon", "q=anna%40ex", "q=kunde-7", f"{exact[0]}&q=smi"):
        assert [one["id"] for one in await items(api, f"{members}?{query}", till)] == [anna["id"]], query
    for query in ("q=mith", "email=c%40example.org", "q=%25", "email=anna%40example.org&ref=kunde-8"):
        assert await items(api, f"{members}?{query}", till) == [], query
    assert [one["id"] for one in await items(api, f"{members}?q=kunde", till)] == [anna["id"], berta["id"]]
    page = (await api.get(f"{members}?limit=1", till)).json()
    assert [one["id"] for one in await items(api, f"{members}?cursor={page['next_cursor']}", till)] == [berta["id"]]

    path = f"{members}/{anna['id']}"
    changed = (await patch(api, path, {"phone": None, "email": "annb@example.org", "marketing": False}, till)).json()
    assert (changed["phone"], changed["email"], changed["marketing"]) == (None, "annb@example.org", False)
    assert changed["marketing_at"] > anna["marketing_at"]
    assert (await patch(api, path + "?dry_run=true", {"name": "X"}, till)).json()["name"] == "X"
    refused = problem(await patch(api, path, {"ref": "kunde-8"}, till), 409)
    assert (refused["code"], refused["member_id"]) == ("member_exists", berta["id"])
    assert (await api.get(path, till)).json() == changed

    # A card leads to its member, until it is revoked.
    (number,) = draw_numbers(1)
    card = "INSERT INTO cards (number, program_id, account_id, run_id) VALUES ($1, $2, $3, gen_random_uuid())"
    await api.owner.execute(card, number, UUID(tea["id"]), anna["account_id"])
    typed = show_number(number).lower()
    assert [one["cards"] for one in await items(api, f"{members}?card={typed}", till)] == [[show_number(number)]]
    assert (await api.get(path, till)).json() == {**changed, "cards": [show_number(number)]}
    assert problem(await api.get(f"{members}?card=AAAA", till), 400)["code"] == "invalid_member"
    await api.owner.execute("UPDATE cards SET revoked_at = now()")
    assert await items(api, f"{members}?card={typed}", till) == []
    assert (await api.get(path, till)).json() == changed

    # A member joins another program of the client, once.
    coffee = f"{PROGRAMS}/Coffee/members"
    assert problem(await api.get(f"{coffee}/kunde-7", till), 404)["code"] == "member_not_found"
    joined = [(await post(api, coffee, {"member": "kunde-7"}, till)).json() for _ in range(2)]
    assert joined[0] == joined[1]
    assert joined[0]["account_id"] != anna["account_id"]
    # Not one of another client.
    other = await api.key("admin", "redeem", client_id=uuid4())
    await post(api, PROGRAMS, {"name": "Tea"}, other)
    assert problem(await post(api, members, {"member": anna["id"]}, other), 404)["code"] == "member_not_found"
    for call in (api.client.get, api.client.delete):
        assert problem(await call(f"{members}/{anna['id']}", headers=other), 404)["code"] == "member_not_found"
    assert problem(await api.client.delete(path, headers=till), 403)["code"] == "scope_missing"
    assert (await api.get(f"{PROGRAMS}/{tea['id']}/members/{berta['id']}", admin)).json() == berta


async def sign_in(api: Api, program: str, member: str) -> None:
    """Give the member a session, and a token that is on its way to its address; to the same one from another client."""
    await api.owner.execute(
        "INSERT INTO sessions (hash, kind, owner, expires_at, ends_at)"
        " VALUES (sha256('a'), 'member', $1, now() + interval '1 h', now() + interval '1 h')",
        member,
    )
    for place, one in enumerate((program, str(uuid4()))):
        await api.owner.execute(
            "INSERT INTO login_tokens (hash, purpose, program_id, code_hash, email, email_folded, expires_at) VALUES"
            " (sha256($1::text::bytea), 'login', $2, sha256('c'), $3, $3, now() + interval '1 h')",
            str(place), UUID(one), "annb@example.org",
        )  # fmt: skip


async def test_an_erased_member_leaves_no_trace_of_the_person(
    api: Api, postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor do logs, that of Postgres among them, and audit log have one before."""
    client, logged = uuid4(), postgres_server.log.stat().st_size
    key = await api.key("admin", "redeem", client_id=client)
    tea = (await post(api, PROGRAMS, {"name": "Tea"}, key)).json()
    members = f"{PROGRAMS}/Tea/members"
    with structlog.testing.capture_logs() as logs:
        anna = (await post(api, members, ANNA, key, **{"Idempotency-Key": "a"})).json()
        path = f"{members}/{anna['id']}"
        await patch(api, path, {"email": "annb@example.org", "name": "Berta"}, key)
        problem(await post(api, members, {"email": "annb@example.org"}, key), 409)
        other = (await post(api, members, {"name": "Otto"}, key)).json()["id"]
        for taken in ({"email": "annb@example.org"}, {"ref": "kunde-7"}):
            refused = problem(await patch(api, f"{members}/{other}", taken, key), 409)
            assert (refused["code"], refused["member_id"]) == ("member_exists", anna["id"])
        problem(await patch(api, path, {"email": "smith@"}, key), 400)
        await items(api, f"{members}?q=smith", key)
        await sign_in(api, tea["id"], anna["id"])
        exported = (await api.get(path + "/export", key)).json()
        assert [one["email"] for one in (exported["members"] + exported["login_tokens"])] == ["annb@example.org"] * 2
        assert [len(exported[name]) for name in ("accounts", "entries", "sessions", "kept_answers")] == [1, 0, 1, 1]
        tried = await api.client.delete(path + "?dry_run=true", headers=key)
        assert tried.json()["erased_at"] is not None
        assert (await api.get(path, key)).json()["erased_at"] is None
        kept = await api.owner.fetchval("SELECT count(*) FROM kept_answers")
        erased = [(await api.client.delete(path, headers=key)).json() for _ in range(2)]
    assert erased[0] == erased[1]
    shown = (await api.get(path, key)).json()
    personal = ("ref", "email", "phone", "name", "locale", "marketing_at")
    assert {name: shown[name] for name in personal} == dict.fromkeys(personal)
    assert (shown["marketing"], shown["account_id"]) == (False, anna["account_id"])
    # It takes no part any more, and its ref and address are free.
    assert problem(await patch(api, path, {"name": "X"}, key), 404)["code"] == "member_not_found"
    assert kept == 1
    assert await api.owner.fetchval("SELECT count(*) FROM kept_answers") == 0
    assert (await post(api, members, ANNA, key)).status_code == 201
    await api.client.delete(f"{members}/kunde-7", headers=key)

    # The other client's token is still on its way.
    assert len(await api.owner.fetch("DELETE FROM login_tokens RETURNING hash")) == 1
    audit = str(await api.owner.fetch("SELECT * FROM audit_log")).lower()
    assert "member.create" in audit
    assert f"member:{UUID(anna['id'])}" in audit
    everything = ""
    for (table,) in await api.owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        everything += str(await api.owner.fetch(f'SELECT t::text FROM "{table}" t')).lower()
    output = capsys.readouterr()
    postgres_log = postgres_server.log.read_bytes()[logged:].decode(errors="replace")
    for place in (audit, everything, f"{logs} {output.out} {output.err}".lower(), postgres_log.lower()):
        assert [text for text in PERSONAL if text in place] == []

"""What operators do over HTTP as well as by command: API keys, recoveries and their quarantine, dead letters."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import uuid4

import pytest

from issuer.access.audit import list_entries
from issuer.contract.keys import partition_keys
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.settings import Settings
from tests.support.api import Api, problem, until_status
from tests.support.command import run_command
from tests.support.coupons import working
from tests.support.servers import START_LIMIT_S

KEYS: Final = "/api/v1/keys"
RECOVERIES: Final = "/api/v1/recoveries"
QUARANTINE: Final = "/api/v1/quarantine"
LETTERS: Final = "/api/v1/dead-letters"
RUNS: Final = "/api/v1/reconciliations"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_backlog": 10})


async def record_streams(api: Api) -> None:
    """Record everything in the streams as the worker does, but acknowledge nothing."""
    redis = api.services.stores.redis
    async with api.owner.acquire() as connection, connection.transaction():
        for number in range(redis.partitions):
            found: Any = await redis.client.xrange(partition_keys(number).stream)
            entries = [StreamEntry(number, stream_id.decode(), fields) for stream_id, fields in found]
            await record_entries(connection, entries)


async def test_a_key_is_created_used_and_revoked(api: Api) -> None:
    new = {"name": "till 7", "scopes": ["redeem"], "rate_limit": "100/s"}
    headers = {**api.admin, "Idempotency-Key": "key-1"}
    response = await api.client.post(KEYS, json=new, headers=headers)
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    created = response.json()
    secret = created.pop("secret")
    assert (created["name"], created["scopes"], created["rate_limit"]) == ("till 7", ["redeem"], "100/s")
    replayed = await api.client.post(KEYS, json=new, headers=headers)
    assert replayed.headers["idempotency-replayed"] == "true"
    assert replayed.json() == {**created, "secret": None}
    listed = (await api.get(KEYS)).json()["items"]
    assert listed[-1] == created
    assert len([key for key in listed if key["name"] == "till 7"]) == 1

    batch, client = await api.batch("SUMMER-1", "SUMMER-2")
    till = {"Authorization": f"Bearer {secret}"}
    async with asyncio.timeout(START_LIMIT_S):
        while (await api.redeem(batch, client, **till)).status_code == 401:
            await asyncio.sleep(0.02)
    revoked = (await api.client.delete(f"{KEYS}/{created['id']}", headers=api.admin)).json()
    assert revoked == {**created, "revoked_at": revoked["revoked_at"]}
    assert (await api.client.delete(f"{KEYS}/{created['id']}", headers=api.admin)).json() == revoked
    async with asyncio.timeout(START_LIMIT_S):
        while (await api.redeem(batch, client, **till)).status_code != 401:
            await asyncio.sleep(0.02)
    entries = (await list_entries(api.owner)).items
    acts = [(entry.action, entry.actor[:4]) for entry in entries if entry.subject == f"key:{created['id']}"]
    assert acts == [("key.revoke", "key:"), ("key.create", "key:")]
    kept = await api.owner.fetch("SELECT kept_answers::text AS row FROM kept_answers")
    assert kept
    assert not any(secret in row["row"] for row in kept)


async def test_what_is_no_key_is_refused_and_changes_nothing(api: Api) -> None:
    before = (await api.get(KEYS)).json()
    for body, code in (
        ({"scopes": ["redeem"]}, "invalid_request"),
        ({"name": "x", "scopes": "redeem"}, "invalid_request"),
        ({"name": "x", "scopes": [7]}, "invalid_request"),
        ({"name": "x", "scopes": []}, "invalid_key"),
        ({"name": "x", "scopes": ["root"]}, "invalid_key"),
        ({"name": "x", "scopes": ["public"]}, "invalid_key"),
        ({"name": "x", "scopes": ["redeem"], "rate_limit": "often"}, "invalid_key"),
        ({"name": "x", "scopes": ["redeem"], "secret": "mine"}, "invalid_request"),
        ({"name": "x", "scopes": ["redeem"], "client": "unknown-band"}, "client_not_found"),
    ):
        response = await api.client.post(KEYS, json=body, headers=api.admin)
        assert problem(response, 404 if code == "client_not_found" else 400)["code"] == code, body
    for unknown in ("0", "abc", "2147483648", "9" * 30, "-1", "%30"):
        problem(await api.client.delete(f"{KEYS}/{unknown}", headers=api.admin), 404)
    assert (await api.get(KEYS)).json() == before
    pages = (await api.get(f"{KEYS}?limit=1")).json()
    assert pages["items"] == before["items"][:1]
    second = (await api.get(f"{KEYS}?limit=1&cursor={pages['next_cursor']}")).json()
    assert second["items"] == before["items"][1:2]


async def test_a_recovery_is_shown_and_its_quarantine_released(api: Api, settings: Settings) -> None:
    client = uuid4()
    uploaded = await api.upload([(client, f"CODE-{number}") for number in range(20)], name="Summer")
    batch = uploaded.json()["batch_id"]
    status, output = await run_command(settings, "recover", "--restored")
    assert status == 0, output
    async with asyncio.timeout(START_LIMIT_S):
        while api.services.stores.redis.epoch == 1:
            await asyncio.sleep(0.02)
    await until_status(api, "/readyz", 200)
    newest = (await api.get(f"{RECOVERIES}?limit=1")).json()["items"][0]
    assert (newest["verdict"], newest["held"], newest["released"]) == ("bounded", 10, 0)
    assert "announced by the operator" in newest["reasons"]
    epoch = newest["epoch"]
    detail = (await api.get(f"{RECOVERIES}/{epoch}")).json()
    assert detail | newest == detail
    place = {
        "batch_id": batch,
        "batch_name": "Summer",
        "client_id": str(client),
        "client_name": None,
        "first_seq": 1,
        "last_seq": 10,
    }
    assert detail["pools"] == [{**place, "held": 10, "released": 0}]
    (quarantined,) = (await api.get(f"{QUARANTINE}?batch=Summer")).json()["items"]
    assert {**quarantined, "quarantined_at": None} == {
        **place, "epoch": epoch, "held": 10, "released": 0, "quarantined_at": None,
    }  # fmt: skip

    wanted: dict[str, Any] = {"batch": "Summer", "journals_replayed": True}
    for body, code in (
        ({"batch": "Summer"}, "not_confirmed"),
        ({**wanted, "journals_replayed": "yes"}, "not_confirmed"),
        ({"journals_replayed": True}, "batch_not_found"),
        ({**wanted, "batch": "Winter"}, "batch_not_found"),
        ({**wanted, "epoch": "1"}, "invalid_request"),
    ):
        response = await api.client.post(f"{QUARANTINE}/release", json=body, headers=api.admin)
        assert response.status_code in (400, 404)
        assert response.json()["code"] == code
    earlier = await api.client.post(f"{QUARANTINE}/release", json={**wanted, "epoch": 1}, headers=api.admin)
    assert earlier.json() == {"released": 0}
    for _ in range(2):
        response = await api.client.post(
            f"{QUARANTINE}/release",
            json={**wanted, "epoch": epoch},
            headers={**api.admin, "Idempotency-Key": "release-1"},
        )
        assert response.json() == {"released": 10}
    assert (await api.get(f"{RECOVERIES}/{epoch}")).json()["released"] == 10
    for unknown in ("0", "x", str(epoch + 1), "9" * 30):
        assert problem(await api.get(f"{RECOVERIES}/{unknown}"), 404)["code"] == "recovery_not_found"
    assert await api.owner.fetchval("SELECT total FROM pools") == 30

    first = (await api.get(f"{RECOVERIES}/{epoch}/codes?limit=9")).json()
    (last,) = (await api.get(f"{RECOVERIES}/{epoch}/codes?limit=9&cursor={first['next_cursor']}")).json()["items"]
    assert [code["code"] for code in (*first["items"], last)] == [f"CODE-{number}" for number in range(10)]
    assert last == {
        "batch_id": batch, "batch_name": "Summer", "client_id": str(client), "seq": 10, "code": "CODE-9",
        "released": True,
    }  # fmt: skip
    seen = [entry.detail["codes"] for entry in (await list_entries(api.owner)).items if entry.action[-6:] == "reveal"]
    assert seen == [1, 9]
    accepted = [await api.client.post(f"{RECOVERIES}/{epoch}/accept", headers=api.admin) for _ in range(2)]
    assert [response.json() for response in accepted] == [{"epoch": epoch}] * 2
    detail = (await api.get(f"{RECOVERIES}/{epoch}")).json()
    assert detail["accepted_at"] is not None
    assert detail["accepted_by"] == (await list_entries(api.owner)).items[0].actor
    problem(await api.client.post(f"{RECOVERIES}/777/accept", headers=api.admin), 404)
    assert problem(await api.get(f"{RECOVERIES}/777/codes"), 404)["code"] == "recovery_not_found"


async def test_dead_letters_are_listed_and_retried(api: Api) -> None:
    batch, client = await api.batch("CODE-1", "CODE-2")
    assert (await api.redeem(batch, client)).status_code == 200
    removed = await api.owner.fetchrow("DELETE FROM codes WHERE seq = 1 RETURNING *")
    assert removed is not None
    await record_streams(api)
    (letter,) = (await api.get(LETTERS)).json()["items"]
    assert (letter["seq"], letter["reason"], letter["resolved_at"]) == (1, "no such seq in the pool", None)
    retry = await api.client.post(f"{LETTERS}/retry", json={}, headers=api.admin)
    assert retry.json() == {"resolved": 0, "not_resolved": [{"id": letter["id"], "reason": letter["reason"]}]}
    names = ", ".join(removed.keys())
    places = ", ".join(f"${number}" for number in range(1, len(removed) + 1))
    await api.owner.execute(f"INSERT INTO codes ({names}) VALUES ({places})", *removed.values())
    for bad in ({"id": "7"}, {"id": 0}, {"id": True}, {"id": 2**63}, {"ids": [7]}):
        problem(await api.client.post(f"{LETTERS}/retry", json=bad, headers=api.admin), 400)
    for _ in range(2):
        retry = await api.client.post(
            f"{LETTERS}/retry", json={"id": letter["id"]}, headers={**api.admin, "Idempotency-Key": "retry-1"}
        )
        assert retry.json() == {"resolved": 1, "not_resolved": []}
    assert (await api.get(LETTERS)).json()["items"] == []
    (resolved,) = (await api.get(f"{LETTERS}?resolved=true")).json()["items"]
    assert resolved["resolved_at"] is not None
    problem(await api.get(f"{LETTERS}?resolved=perhaps"), 400)


async def until_finished(api: Api, run: int) -> dict[str, Any]:
    async with asyncio.timeout(START_LIMIT_S):
        while (found := (await api.get(f"{RUNS}/{run}")).json())["finished_at"] is None:
            await asyncio.sleep(0.05)
    shown: dict[str, Any] = found
    return shown


async def test_a_reconciliation_is_asked_for_and_made_by_the_worker(api: Api, settings: Settings) -> None:
    batch, client = await api.batch("CODE-1", "CODE-2")
    assert (await api.redeem(batch, client)).status_code == 200
    headers = {**api.admin, "Idempotency-Key": "reconcile-1"}
    asked = [await api.client.post(RUNS, headers=one) for one in (headers, headers, api.admin)]
    assert [response.status_code for response in asked] == [202] * 3
    first = asked[0].json()
    assert [response.json() for response in asked] == [first] * 3
    assert (first["state"], first["started_at"]) == ("waiting", None)
    with working(settings):
        held = await until_finished(api, first["id"])
        assert (held["state"], held["result"]["pools"], held["result"]["wrong"]) == ("holds", 1, [])
        assert held["result"]["sums"]["issued"] == 1
        async with asyncio.timeout(START_LIMIT_S):
            while not await api.owner.fetchval("SELECT EXISTS (SELECT FROM redemptions)"):
                await asyncio.sleep(0.02)
        # What must never happen: the row of an answered code is gone.
        await api.owner.execute("DELETE FROM redemptions")
        second = (await api.client.post(RUNS, headers=api.admin)).json()
        wrong = await until_finished(api, second["id"])
    assert (wrong["state"], wrong["result"]["wrong_pools"]) == ("wrong", 1)
    (pool,) = wrong["result"]["wrong"]
    assert (pool["batch_id"], pool["missing"], pool["problems"]) == (str(batch), [1], ["1 seq is missing"])
    listed = (await api.get(f"{RUNS}?limit=1")).json()
    assert listed["items"] == [{name: value for name, value in wrong.items() if name != "result"}]
    assert len((await api.get(f"{RUNS}?cursor={listed['next_cursor']}")).json()["items"]) == 1
    acts = [entry.subject for entry in (await list_entries(api.owner)).items if entry.action.startswith("reconcil")]
    assert acts == [f"reconciliation:{second['id']}", f"reconciliation:{first['id']}"]
    for unknown in ("0", "x", "777"):
        assert problem(await api.get(f"{RUNS}/{unknown}"), 404)["code"] == "run_not_found"

"""The screens Find, Incidents and Ledger of the console, without a browser."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from issuer.access.audit import list_entries
from issuer.reconciliation.runs import work_on_runs
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.grants import Process
from issuer.storage.task_rows import UNGUARDED
from tests.support.api import REDEEM, Api, running_app, until_status
from tests.support.api_process import ApiProcess
from tests.support.console import console_screen
from tests.support.databases import migrate_with_roles
from tests.support.environment import settings_as
from tests.support.recording import drain
from tests.support.servers import START_LIMIT_S, PostgresServer, RedisServer


@pytest.mark.shared_app
async def test_a_code_is_found_and_shown_to_operators_who_ask(api: Api) -> None:
    batch, client = await api.batch("SCREEN-0001")
    assert (await api.redeem(batch, client, "anna of the screen")).status_code == 200
    await drain(api.services.stores)
    async with console_screen(api, api.admin) as screen:
        await screen.open("/find")
        assert (screen.status, "Nothing found" in screen.text) == (200, False)
        await screen.open("/find?q=SCREEN-0001")
        assert "Found as a code." in screen.text
        for words in ("••••0001", "Issued", "Recorded in the ledger", "anna of the screen"):
            assert words in screen.text, words
        assert "SCREEN-0001" not in screen.text
        assert f'href="/console/batches/{batch}"' in screen.html
        named = {"batch_id": str(batch), "client_id": str(client), "seq": "1", "q": "SCREEN-0001"}
        await screen.send("/find/reveal", **named)
        assert (screen.status, "SCREEN-0001" in screen.text) == (200, True)
        await screen.send("/find/reveal", **named | {"seq": "2"})
        assert screen.status == 404
        await screen.open("/find?q=nothing-has-this")
        assert "Nothing found" in screen.text
        await screen.open(f"/find?q={'x' * 300}")
        assert (screen.status, "at most 255" in screen.text) == (400, True)
    assert [entry.actor[:4] for entry in (await list_entries(api.owner)).items if entry.action == "code.reveal"] == [
        "key:"
    ]
    other = await api.key("admin", client_id=uuid4())
    async with console_screen(api, other) as screen:
        await screen.open("/find?q=SCREEN-0001")
        assert "Nothing found" in screen.text
        await screen.send("/find/reveal", **named)
        assert screen.status == 404
        for closed in ("/incidents", "/incidents/1", "/ledger"):
            await screen.open(closed)
            assert screen.status == 403, closed


@pytest.mark.shared_app
async def test_the_ledger_is_reconciled_and_a_dead_letter_tried_again(api: Api) -> None:
    await api.owner.execute(
        "INSERT INTO dead_letters (partition, stream_id, epoch, reason, raw) VALUES (0, '7-7', 1, 'torn event', '{}')"
    )
    async with console_screen(api, api.admin) as screen:
        await screen.open("/ledger")
        for words in ("Not reconciled yet", "Torn event", "Cannot be read"):
            assert words in screen.text, words
        await screen.send("/ledger/retry")
        assert (screen.path, "1 could not be recorded" in screen.text) == ("/ledger", True)
        await screen.send("/ledger/reconcile")
        assert "It begins as soon as a worker is free" in screen.text
        assert await api.owner.fetchval("SELECT count(*) FROM reconciliations") == 1
        await screen.send("/ledger/retry", id="all")
        assert screen.status == 400
        await api.owner.execute(
            "INSERT INTO task_rows (task, row_id, failures, error, first_at, last_at, retry_at)"
            " SELECT 'reconcile', id::text, 1, 'too many rows', now(), now(), now() FROM reconciliations"
        )
        await screen.open("/ledger")
        assert "could not be made Too many rows" in screen.text
        result = (
            '{"sums": {"issued": 3, "ledger": 2, "backlog": 0, "quarantined": 0, "dead_letters": 0, "void": 0},'
            ' "pools": 1, "wrong_pools": 1, "repeated": [], "moves": [], "points": {"problems": []}, "partitions": [],'
            ' "wrong": [{"batch_name": "Summer", "issued": 3, "ledger": 2, "backlog": 0, "quarantined": 0,'
            ' "dead_letters": 0, "void": 0, "problems": ["1 seq is missing"], "missing": [2], "doubled": []}]}'
        )
        await api.owner.execute(
            "UPDATE reconciliations SET finished_at = now(), holds = false, result = $1::text::jsonb", result
        )
        await screen.open("/ledger")
        for words in ("The ledger does not balance", "1 seq is missing", "Missing: 2"):
            assert words in screen.text, words
        # A page that has waited for the run is loaded as a whole.
        polled = await screen.http.get("/console/ledger", headers={"hx-request": "true"})
        assert (polled.headers["hx-refresh"], polled.text) == ("true", "")
        # Ids have gaps: runs are kept by their number, not by their ids.
        await api.owner.execute("SELECT setval(pg_get_serial_sequence('reconciliations', 'id'), 5000)")
        await screen.send("/ledger/reconcile")
        async with open_stores(settings_as(api.services.settings, Process.WORKER)) as worker:
            await work_on_runs(worker, UNGUARDED)
        finished = "SELECT count(*) FROM reconciliations WHERE finished_at IS NOT NULL"
        assert await api.owner.fetchval(finished) == 2


async def test_the_page_of_a_loss_says_whose_journal_is_missing_and_names_the_codes(
    journal_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = journal_settings.model_copy(update={"host_name": "host-a"})
    async with running_app(settings) as api:
        batch, client = await api.batch(*(f"CODE-{number:03}" for number in range(200)))
        lost = tmp_path / "host-b"
        with ApiProcess(settings, tmp_path, ISSUER_JOURNAL_DIR=str(lost), ISSUER_HOST_NAME="host-b") as process:
            await asyncio.to_thread(process.wait_until_ready)
            async with httpx.AsyncClient(base_url=process.url, headers=api.redeemer) as http:
                body = {"batchid": str(batch), "clientid": str(client)}
                answers = [await http.post(REDEEM, json={**body, "customerid": str(uuid4())}) for _ in range(3)]
            assert process.process is not None
            process.process.kill()
            process.process.wait()
        answered = [answer.json()["code"] for answer in answers]
        shutil.rmtree(lost)
        own_redis.kill9()
        own_redis.wipe()
        own_redis.start()
        async with asyncio.timeout(START_LIMIT_S):
            while api.services.stores.incarnations.epoch == 1:
                await asyncio.sleep(0.02)
        await until_status(api, "/readyz", 200)
        epoch = await api.owner.fetchval("SELECT epoch FROM installation")
        async with console_screen(api, api.admin) as screen:
            await screen.open("/incidents")
            assert "50 codes are quarantined" in screen.text
            await screen.open(f"/incidents/{epoch}")
            for words in (
                str(client),
                "Loss, codes held",
                "host-b",
                "Not heard of",
                "issuer journal replay",
                "1 to 50",
            ):
                assert words in screen.text, words
            assert "host-a" not in screen.text
            await screen.send(f"/incidents/{epoch}/codes")
            named = re.findall(r"CODE-\d{3}", screen.text)
            assert set(answered) <= set(named)
            assert len(named) == len(set(named)) == 50
            await screen.send(f"/incidents/{epoch}/accept")
            assert "stay out of stock" in screen.text
            await screen.open("/incidents")
            assert "Nothing waits for a decision" in screen.text
            await screen.send("/incidents/1/release", batch_id=str(batch), client_id=str(client))
            assert "0 codes are in stock again" in screen.text
            await screen.send(f"/incidents/{epoch}/release", batch_id=str(batch), client_id=str(client))
            assert "50 codes are in stock again" in screen.text
        actions = [entry.action for entry in (await list_entries(api.owner)).items][:4]
        assert actions == ["quarantined.release", "quarantined.release", "recovery.accept", "quarantined.reveal"]


@pytest.mark.long
async def test_incidents_are_readable_without_postgres(
    settings: Settings, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"database_url": SecretStr(own_postgres.url())})
    await migrate_with_roles(settings)
    async with running_app(settings) as api, console_screen(api, api.admin) as screen:
        await screen.open("/incidents")
        assert (screen.status, "First start" in screen.text) == (200, True)
        own_postgres.stop()
        await screen.open("/incidents")
        assert (screen.status, "First start" in screen.text) == (200, True)
        assert "Postgres cannot be reached" in screen.text
        await screen.open("/incidents/1")
        assert screen.status == 503
        own_postgres.start()
        async with asyncio.timeout(START_LIMIT_S):
            while "cannot be reached" in screen.text or screen.status != 200:
                await screen.open("/incidents")

"""The operator's commands for batches, keys and redemptions, run as processes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import openpyxl
import pytest

from issuer.access.api_keys import digest
from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.coupons.coupon import CouponTerms
from issuer.coupons.store import create_coupon
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import Command, CommandInProcess
from tests.support.recording import record, shop_of, words


@pytest.fixture
def issuer(settings: Settings, tmp_path: Path) -> Command:
    return Command(settings, tmp_path)


@pytest.fixture
def issuer_here(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandInProcess:
    return CommandInProcess(settings, tmp_path, monkeypatch)


@pytest.mark.long
async def test_a_batch_is_created_changed_and_ended(issuer: Command, stores: Stores) -> None:
    rules = '{"maxpercustomer":2,"timelimit":30}'
    made = (
        await issuer(
            "batches",
            "create",
            "--name",
            "Summer Sale",
            "--rules",
            rules,
            "--ends-at",
            "2100-01-01T00:00:00Z",
            "--json",
        )
    ).json
    assert made["rules"] == {"maxpercustomer": 2, "timelimit": 30}
    assert (made["ends_at"], made["expired"], made["paused"]) == ("2100-01-01T00:00:00.000Z", False, False)

    assert (await issuer("batches", "list", "--json")).json == [made]
    assert "Summer Sale" in (await issuer("batches", "list")).out
    assert (await issuer("batches", "pause", "Summer Sale", "--json")).json["paused"] is True
    assert (await issuer("batches", "resume", made["id"], "--json")).json["paused"] is False
    limits = '{"limits":[{"max":1,"seconds":60}]}'
    changed = (await issuer("batches", "set-rules", "Summer Sale", limits, "--json")).json
    assert changed["rules"]["limits"] == [{"max": 1, "seconds": 60}]
    # The rules in the output are accepted by set-rules.
    assert '{"max": 1, "seconds": 60}' in (await issuer("batches", "show", "Summer Sale")).out
    async with shop_of(stores) as shop:
        shown = (await issuer("batches", "show", str(shop.batch), "--json")).json
        (pool,) = shown["stock"]
        assert (pool["total"], pool["in_redis"], pool["issued"], pool["backlog"]) == (100, 100, 0, 0)
        assert (await issuer("batches", "show", str(shop.batch))).out.splitlines()[-1].split()[2:4] == ["100", "100"]
    assert (await issuer("batches", "expire", "Summer Sale", "--json")).json["expired"] is True
    assert made["id"] not in (await issuer("batches", "list")).out
    assert made["id"] in (await issuer("batches", "list", "--all")).out
    for word in ("pause", "resume"):
        again = await issuer("batches", word, made["id"])
        assert (again.status, again.out) == (2, "")
        assert again.err == "error: the batch was ended; that is final\n"
    assert (await issuer("batches", "expire", made["id"], "--json")).json["expired"] is True

    actors = await stores.postgres.fetch("SELECT actor, action FROM audit_log ORDER BY id")
    assert [row["action"] for row in actors] == ["batch.create", *["batch.change"] * 3, "batch.end"]
    assert {row["actor"].partition(":")[0] for row in actors} == {"cli"}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("batches", "show", "unknown"), "no batch found"),
        (("batches", "show", "12345678-1234-4234-8234-123456789abc"), "no batch found"),
        (("batches", "create", "--name", ""), "name must not be empty"),
        (("batches", "create", "--name", "x", "--rules", '{"max":1}'), "unknown key"),
        (("batches", "create", "--name", "x", "--rules", "{"), "JSON"),
        (("batches", "create", "--name", "x", "--starts-at", "2026-01-01"), "offset"),
        (("batches", "create", "--name", "x", "--ends-at", "soon"), "ISO 8601"),
        (("batches", "set-rules", "x", '{"maxpercustomer":-1}'), "maxpercustomer"),
        (("keys", "create", "--name", "x", "--scope", "root"), "unknown scope"),
        (("keys", "create", "--name", "x"), "--scope"),
        (("keys", "create", "--name", "x", "--scope", "redeem", "--rate-limit", "fast"), "must be like 100/s"),
        (("keys", "create", "--name", "x", "--scope", "public", "--scope", "admin"), "public"),
        (("keys", "revoke", "77"), "no key has the id 77"),
        (("redemptions", "export", "--from", "yesterday"), "ISO 8601"),
        (("redemptions", "export", "--format", "pdf"), "csv"),
        (("redemptions", "export", "--format", "xlsx"), "--output"),
        (
            ("batches", "export", "--customer", "12345678-1234-4234-8234-123456789abc"),
            "cannot be filtered with --customer",
        ),
        (("redemptions", "erase-customer", "x" * 129, "--yes"), "CUSTOMER: an id must have at most 128 characters"),
    ],
)
def test_invalid_input_exits_with_2_and_one_line(
    issuer_here: CommandInProcess, words: tuple[str, ...], what: str
) -> None:
    done = issuer_here(*words)
    assert (done.status, done.out) == (2, "")
    assert what in done.err
    assert "Traceback" not in done.err
    assert issuer_here.rows("audit_log") == 0


@pytest.mark.long
async def test_batches_with_the_same_name_are_selected_by_id(issuer: Command, stores: Stores) -> None:
    ids = [(await issuer("batches", "create", "--name", "twin", "--json")).json["id"] for _ in range(2)]
    done = await issuer("batches", "pause", "twin")
    assert done.status == 2
    assert all(one in done.err for one in ids)


@pytest.mark.long
async def test_keys_are_created_listed_and_revoked(issuer: Command, stores: Stores) -> None:
    client = str(uuid4())
    made = (
        await issuer(
            "keys", "create", "--name", "till", "--scope", "redeem", "--scope", "admin", "--client", client, "--json"
        )
    ).json
    assert (made["scopes"], made["client_id"], made["revoked_at"]) == (["admin", "redeem"], client, None)
    assert (made["rate_limit"], made["failed_lookup_limit"]) == (None, None)
    plain = await issuer(
        "keys",
        "create",
        "--name",
        "other",
        "--scope",
        "redeem",
        "--rate-limit",
        "500/s",
        "--failed-lookup-limit",
        "off",
    )
    secret = plain.out.strip()
    assert (
        await stores.postgres.fetchval("SELECT name FROM api_keys WHERE secret_sha256 = $1", digest(secret.encode()))
        == "other"
    )

    listed = (await issuer("keys", "list", "--json")).json
    assert [key["name"] for key in listed] == ["till", "other"]
    assert [(key["rate_limit"], key["failed_lookup_limit"]) for key in listed] == [(None, None), ("500/s", "off")]
    assert (await issuer("keys", "revoke", str(made["id"]), "--json")).json["revoked_at"] is not None
    text = (await issuer("keys", "list")).out
    assert "revoked" in text
    assert text.splitlines()[-1].split()[-3:] == ["500/s", "off", "other"]
    assert secret not in text
    assert made["secret"] not in text


@pytest.mark.long
async def test_redemptions_are_exported_and_a_customer_is_erased(
    issuer: Command, stores: Stores, tmp_path: Path
) -> None:
    async with shop_of(stores, (3_000,)) as shop:
        customer = uuid4()
        shop.redeem(2, customer=customer)
        shop.redeem_in_calls(28, 100)
        await record(shop)

        done = await issuer("redemptions", "export", "--format", "csv")
        rows = list(csv.DictReader(done.out.splitlines()))
        assert (done.status, len(rows), done.err) == (0, 2802, "2802 redemptions\n")
        assert {row["batch_id"] for row in rows} == {str(shop.batch)}

        path = tmp_path / "out.csv"
        done = await issuer("redemptions", "export", "--batch-id", str(shop.batch), "-o", str(path))
        assert (done.status, done.out) == (0, "")
        assert list(csv.DictReader(path.read_text().splitlines())) == rows
        assert [entry.name for entry in os.scandir(tmp_path)] == ["out.csv"]
        missing = await issuer("redemptions", "export", "-o", str(tmp_path / "no" / "out.csv"))
        assert (missing.status, "cannot write" in missing.err) == (1, True)

        lines = (await issuer("redemptions", "export", "--format", "ndjson", "--customer", str(customer))).out
        assert [json.loads(line).get("seq") for line in lines.splitlines()] == [1, 2, None]
        assert json.loads(lines.splitlines()[-1]) == {"rows": 2}
        book = tmp_path / "out.xlsx"
        done = await issuer("redemptions", "export", "--format", "xlsx", "-o", str(book))
        assert (done.status, done.out, done.err) == (0, "", "2802 redemptions\n")
        sheet = openpyxl.load_workbook(io.BytesIO(book.read_bytes()))["redemptions"]
        head, *cells = [[str(cell or "") for cell in row] for row in sheet.iter_rows(values_only=True)]
        assert [dict(zip(head, row, strict=True)) for row in cells] == rows
        batches = list(csv.DictReader((await issuer("batches", "export")).out.splitlines()))
        assert [(row["id"], row["redeemed"]) for row in batches] == [(str(shop.batch), "2802")]

        erased = (await issuer("redemptions", "erase-customer", str(customer), "--yes", "--json")).json
        assert (erased["redemptions"], erased["dead_letters"]) == (2, 0)
        unasked = await issuer("redemptions", "erase-customer", str(uuid4()))
        assert unasked.status == 1
        done = await issuer("redemptions", "export")
        assert str(customer) not in done.out
        assert len(done.out.splitlines()) == 2803
        assert words(shop.redeem()) == ["GRANTED"]


@pytest.mark.long
async def test_a_closed_pipe_ends_an_export_without_an_error(issuer: Command, stores: Stores) -> None:
    async with shop_of(stores, (8_000,)) as shop:
        shop.redeem_in_calls(80, 100)
        await record(shop)
    with issuer.start("redemptions", "export") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = await asyncio.to_thread(process.stdout.readline)
        process.stdout.close()
        err = await asyncio.to_thread(process.stderr.read)
        await asyncio.to_thread(process.wait)
    assert first.startswith(b"batch_id,")
    assert (process.returncode, err) == (1, b"")


@pytest.mark.long
async def test_the_audit_log_is_verified_against_a_remembered_head(issuer: Command, stores: Stores) -> None:
    for name in ("a", "b"):
        await issuer("batches", "create", "--name", name)
    head = (await issuer("audit", "head")).out.strip()
    assert (await issuer("audit", "head", "--json")).json == {"id": 2, "hash": head.partition(":")[2]}
    whole = await issuer("audit", "verify", "--head", head)
    assert (whole.status, whole.out) == (0, f"2 entries are whole, 0 were removed; head {head}\n")
    shown = (await issuer("audit", "verify", "--json")).json
    assert shown == {"entries": 2, "removed": f"0:{'0' * 64}", "head": head, "fault": None}
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE audit_log SET actor = 'cli:other' WHERE id = 2")
    broken = await issuer("audit", "verify")
    assert broken.status == 1
    assert "entry 2 is not the one that was written behind entry 1; 1 entries before are whole" in broken.out
    assert (await issuer("audit", "verify", "--json")).status == 1


@pytest.mark.parametrize("head", ["", "2", "2:xyz"])
def test_what_is_no_head_exits_with_2(issuer_here: CommandInProcess, head: str) -> None:
    done = issuer_here("audit", "verify", "--head", head)
    assert (done.status, done.out) == (2, "")
    assert "ID:HASH" in done.err


@pytest.mark.long
async def test_commands_take_batches_campaigns_and_coupons_by_name(issuer: Command, stores: Stores) -> None:
    shop = (await issuer("clients", "create", "band-42", "--name", "Band 42", "--json")).json
    chosen = str(uuid4())
    made = await issuer("batches", "create", "--id", chosen, "--name", "Summer", "--client", "band-42", "--json")
    assert made.json["id"] == chosen
    await create_coupon(stores, UUID(shop["id"]), "SAVE-20", CouponTerms(available=5), actor="test")
    new = NewCampaign("Drop", 3, datetime(2020, 1, 1, tzinfo=UTC), client_id=UUID(shop["id"]))
    campaign = await create_campaign(stores, new, actor="test")

    for name, batch_id in (("Summer", chosen), ("Drop", str(campaign.id)), (chosen.upper(), chosen)):
        report = (await issuer("reconcile", "--batch", name, "--json")).json
        assert {pool["batch_id"] for pool in report["pools"]} == {batch_id}
    coupons = (await issuer("reconcile", "--batch", "save 20", "--json")).json
    assert [pool["client_id"] for pool in coupons["pools"]] == [shop["id"]]
    listed = await issuer("campaigns", "list")
    assert "Band 42" in listed.out
    assert "Band 42" in (await issuer("batches", "show", "Summer")).out
    taken = await issuer("batches", "create", "--id", chosen, "--name", "Other")
    assert (taken.status, taken.err.splitlines()[0]) == (2, "error: the id is taken")
    assert (await issuer("batches", "create", "--name", "Summer", "--json")).status == 0
    twice = await issuer("batches", "pause", "Summer")
    assert twice.status == 2
    assert "several batches have the name 'Summer'; choose one with the id" in twice.err
    assert chosen in twice.err

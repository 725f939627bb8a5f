"""Imports from the database of Ango: what is used stays used, limits count it, and a repeat adds only what is new."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from issuer.batches.batch import NewBatch
from issuer.batches.revisions import push_batch
from issuer.batches.store import create_batch
from issuer.batches.tombstones import free_ended_batches
from issuer.importing.ango import import_ango
from issuer.importing.report import ImportRefusedError, ImportReport
from issuer.ledger.reconcile import reconcile
from issuer.pools.top_up import top_up
from issuer.recovery.opening import GuardedStores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.ango import LOOSE_TABLES, Ango
from tests.support.api import Api, until_status
from tests.support.command import Command, kill_when
from tests.support.databases import drop_database, empty_database
from tests.support.loading import A, B, check_agreement, pool_in_redis
from tests.support.parameters import some_long
from tests.support.recording import drain, failing_after
from tests.support.servers import PostgresServer

pytestmark = pytest.mark.long

BATCH = UUID("c0ffee00-0000-4000-8000-0000000000aa")
ENDED = UUID("c0ffee00-0000-4000-8000-0000000000bb")
CUSTOMER = UUID("cafe0000-0000-4000-8000-0000000000cc")
NOW = datetime.now(UTC)


@pytest.fixture
def source_url(postgres_server: PostgresServer) -> object:
    url = empty_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


@pytest_asyncio.fixture
async def ango(source_url: str) -> AsyncIterator[Ango]:
    source = await Ango.create(source_url)
    yield source
    await source.connection.close()


@pytest_asyncio.fixture
async def loose(source_url: str) -> AsyncIterator[Ango]:
    source = await Ango.create(source_url, LOOSE_TABLES)
    yield source
    await source.connection.close()


async def _import(stores: Stores, ango: Ango) -> ImportReport:
    return await import_ango(stores, ango.dsn, actor="test")


def _counts(report: ImportReport) -> tuple[int, int, int, int, int]:
    return report.codes, report.used, report.unchanged, report.skipped, report.conflicts


async def _issue_all(api: Api, batch: UUID, client: object) -> list[str]:
    """Redeem until nothing is left."""
    codes = []
    while (answer := await api.redeem(batch, client)).status_code == 200:
        codes.append(answer.json()["code"])
    assert answer.status_code == 404, answer.text
    return codes


async def _balanced(stores: Stores) -> None:
    result = await reconcile(stores)
    assert result.holds, result.to_json()


async def test_used_codes_are_in_the_ledger_and_never_issued(api: Api, stores: Stores, ango: Ango) -> None:
    await ango.batch(BATCH, {"maxpercustomer": 2, "timelimit": 1}, name="Été")
    await ango.batch(ENDED, {}, expired=True)
    await ango.fill(BATCH, A, 60)
    rows = [(f"E{n}", ENDED, str(B), uuid4() if n < 5 else None) for n in range(9)]
    await ango.add("codes", "code batch_id client_id customer_id", rows)
    report = await _import(stores, ango)

    assert _counts(report) == (69, 35, 0, 0, 0)
    assert (report.batches, report.new_batches, report.noted, report.in_redis) == (2, 2, 5, 30)
    assert {problem.reason for problem in report.problems} == {
        "has a customer, but no usage: the time of the import was recorded"
    }
    await _balanced(stores)
    pool = await check_agreement(stores, BATCH, A)
    assert (pool.issued, pool.total) == (30, 60)
    used = await ango.connection.fetch("SELECT code, customer_id, used_at FROM code_usage ORDER BY used_at, code")
    recorded = await stores.postgres.fetch(
        "SELECT code, customer_id, redeemed_at, epoch, call_id FROM redemptions WHERE batch_id = $1 ORDER BY seq", BATCH
    )
    assert [(row["code"], row["customer_id"], row["redeemed_at"]) for row in recorded] == [
        (row["code"], row["customer_id"], row["used_at"].replace(tzinfo=UTC)) for row in used
    ]
    assert {(row["epoch"], row["call_id"]) for row in recorded} == {(0, report.run)}
    entry = await stores.postgres.fetchrow("SELECT subject, detail FROM audit_log WHERE action = 'import.ango'")
    assert entry is not None
    assert entry["subject"] == f"import:{report.run}"

    # A customer's usages within the time limit count.
    limited = await ango.connection.fetchval(
        "SELECT customer_id FROM code_usage GROUP BY 1 HAVING count(*) >= 2 ORDER BY 1 LIMIT 1"
    )
    assert (await api.redeem(BATCH, A, limited)).status_code == 403
    issued = await _issue_all(api, BATCH, A)
    assert len(issued) == 30
    assert not {row["code"] for row in used} & set(issued)
    await drain(stores)
    await _balanced(stores)
    batch = await api.get(f"/api/v1/batches/{BATCH}")
    assert (batch.json()["name"], batch.json()["rules"]) == ("Été", {"maxpercustomer": 2, "timelimit": 1})
    assert (await api.redeem(ENDED, B)).status_code == 410
    assert await free_ended_batches(stores) == 1
    await _balanced(stores)


async def test_every_peculiarity_is_imported_or_named(api: Api, stores: Stores, loose: Ango) -> None:
    spelled = "{" + str(BATCH).upper() + "}"
    await loose.batch(spelled, json.dumps({"MaxPerCustomer": "2", "timelimit": 30, "vip": True}), name="a\u202eb")
    await loose.batch(BATCH.hex, json.dumps({"MaxPerCustomer": "2", "timelimit": 30, "vip": True}), name="a\u202eb")
    await loose.batch(ENDED, "[]", name="No rules")
    await loose.batch("not-a-uuid", {})
    anna, guest, astray = "anna@example.org", uuid4(), uuid4()
    await loose.add("codes", "code batch_id client_id customer_id", [
        ("FREE-1", spelled, "band-42", None), ("FREE-2", BATCH.hex, "band-42", ""),
        ("007", str(BATCH), "band-42", None),
        ("USED-1", f"urn:uuid:{BATCH}", "band-42", anna), ("USED-2", spelled, str(A).upper(), str(guest).upper()),
        ("FREE-2", spelled, "band-42", anna), ("LONE", spelled, "band-42", anna), ("TWO", spelled, "band-42", "bob"),
        ("hid\u200bden", spelled, "band-42", None), ("UNKNOWN", spelled, "", None), (None, spelled, "band-42", None),
        ("RULES", str(ENDED), "band-42", None), ("TEXT", "not-a-uuid", "band-42", None),
        ("ASTRAY", str(astray), "band-42", None), ("INFINITE", spelled, "band-42", "carl"),
        ("BAD-CUSTOMER", spelled, "band-42", "x\u200by"),
    ])  # fmt: skip
    day = timedelta(days=1)
    await loose.add("code_usage", "code batch_id client_id customer_id used_at", [
        ("USED-1", BATCH.hex, "band-42", anna, NOW - day), ("USED-1", spelled, "band-42", "bob", NOW),
        ("USED-2", spelled, A.hex, f"urn:uuid:{guest}", NOW - 40 * day),
        ("GONE", spelled, "band-42", anna, NOW - 2 * day),
        ("TWO", spelled, "band-42", "tom", NOW - day),
        ("INFINITE", spelled, "band-42", "carl", datetime.max.replace(tzinfo=UTC)),
        ("BAD-CUSTOMER", spelled, "band-42", "x\u200by", NOW - day),
    ])  # fmt: skip
    report = await _import(stores, loose)

    reasons = {(problem.code, problem.reason.partition(":")[0]) for problem in report.problems}
    assert reasons == {
        (None, "another name was given"), (None, "the rule 'vip' is not known and was left out"),
        ("USED-1", "was used 2 times"), ("FREE-2", "is 2 times among the codes of its client"),
        ("FREE-2", "has a customer, but no usage"), ("LONE", "has a customer, but no usage"),
        ("TWO", "names two customers"), ("GONE", "is used, but not among the codes"),
        ("hid\u200bden", "invisible character in the code"), ("UNKNOWN", "the row names no client"),
        ("", "empty code"), ("RULES", "its rules are not a JSON object"),
        ("INFINITE", "was used at no time that can be read"),
        ("TEXT", "the id of its batch is not a UUID"), ("ASTRAY", f"there is no batch {astray.hex}"),
        ("BAD-CUSTOMER", "was recorded without its customer"),
    }  # fmt: skip
    assert _counts(report) == (10, 8, 0, 6, 0)
    client = stores.identity("band-42").uuid
    texts = await stores.postgres.fetch("SELECT code, customer_text FROM redemptions ORDER BY code")
    assert {row["code"]: row["customer_text"] for row in texts} == {
        "USED-1": anna, "USED-2": None, "FREE-2": anna, "LONE": anna, "GONE": anna, "TWO": "tom", "INFINITE": "carl",
        "BAD-CUSTOMER": None,
    }  # fmt: skip
    await _balanced(stores)
    # Two usages of anna's are within the limits; those of a guest are longer ago.
    assert (await api.redeem(BATCH, client, anna)).status_code == 403
    assert (await api.redeem(BATCH, A, guest)).status_code == 404
    assert await _issue_all(api, BATCH, client) == ["007", "FREE-1"]


async def test_a_repeat_adds_what_is_new_and_changes_nothing(api: Api, stores: Stores, ango: Ango) -> None:
    await ango.batch(BATCH, {"maxpercustomer": 1})
    await ango.fill(BATCH, A, 20)
    await ango.batch(ENDED, {})
    await _import(stores, ango)
    assert _counts(await _import(stores, ango)) == (0, 0, 20, 0, 0)

    issued_here = (await api.redeem(BATCH, A)).json()["code"]
    await drain(stores)
    free = await ango.connection.fetchval(
        "SELECT max(code) FROM codes WHERE customer_id IS NULL AND code <> $1", issued_here
    )
    await ango.use(issued_here, uuid4())
    await ango.use(free, CUSTOMER)
    await ango.add("codes", "code batch_id client_id", [("NEW", BATCH, str(A)), ("FIRST", ENDED, str(A))])
    await ango.connection.execute("UPDATE batches SET expired = true, rules = '{}' WHERE id = $1", ENDED)
    report = await _import(stores, ango)
    assert _counts(report) == (2, 1, 20, 0, 1)
    assert [(problem.code, problem.reason) for problem in report.problems] == [
        (issued_here, "is used in the source, but was issued here")
    ]
    await _balanced(stores)
    assert (await api.redeem(ENDED, A)).status_code == 410
    assert (await api.redeem(BATCH, A, CUSTOMER)).status_code == 403
    rest = await _issue_all(api, BATCH, A)
    assert len(rest) == 9
    assert rest[-1] == "NEW"
    assert not {free, issued_here} & set(rest)
    await drain(stores)
    await _balanced(stores)


@pytest.mark.parametrize("healed", some_long(["recovery", "push"]))
async def test_pools_that_a_killed_import_has_taken_back_are_opened_before_their_batch(
    healed: str, api: Api, stores: GuardedStores, ango: Ango
) -> None:
    await ango.batch(BATCH, {})
    await ango.fill(BATCH, A, 20)
    await _import(stores, ango)
    before = await check_agreement(stores, BATCH, A)
    await ango.use(before.codes[3], CUSTOMER)
    # Redis fails when the batch is closed and its pool is taken back: its list has the code still.
    with pytest.raises(RedisUnavailableError):
        await _import(failing_after(stores, 1), ango)
    assert await pool_in_redis(stores, BATCH, A) == before
    assert (await api.redeem(BATCH, A)).status_code == 503
    await _balanced(stores)
    if healed == "push":
        await push_batch(stores, BATCH)
        there = await pool_in_redis(stores, BATCH, A)
        assert there is not None
        assert (there.issued, there.codes) == (11, [])
    else:
        await stores.guardian.check(RecoveryOptions(margin=1))
        assert await pool_in_redis(stores, BATCH, A) is None
        await until_status(api, "/readyz", 200)
    assert await top_up(stores) == 9
    assert (await check_agreement(stores, BATCH, A)).issued == 11
    issued = await _issue_all(api, BATCH, A)
    assert sorted(issued) == sorted(set(before.codes) - {before.codes[3]})
    await drain(stores)
    await _balanced(stores)


async def test_an_id_of_another_origin_is_refused_by_name(stores: Stores, ango: Ango, settings: Settings) -> None:
    await create_batch(stores, NewBatch("Ours", id=BATCH), actor="test")
    await ango.batch(BATCH, {})
    await ango.batch(ENDED, {})
    with pytest.raises(ImportRefusedError, match=str(BATCH)):
        await _import(stores, ango)
    assert not await stores.postgres.fetchval("SELECT count(*) FROM imported_batches")
    with pytest.raises(ImportRefusedError, match="codes has no column customer_id"):
        await import_ango(stores, settings.database_url.get_secret_value(), actor="test")


@pytest.mark.long
async def test_a_killed_import_is_completed_by_the_next(
    stores: Stores, ango: Ango, settings: Settings, tmp_path: Path
) -> None:
    batches = [BATCH, ENDED]
    for batch in batches:
        await ango.batch(batch, {"maxpercustomer": 100})
    await ango.fill(BATCH, A, 10_000)
    await ango.connection.execute(
        "INSERT INTO codes (code, batch_id, client_id, customer_id)"
        " SELECT 'X' || code, $1, $2, customer_id FROM codes", ENDED, str(B),
    )  # fmt: skip
    command = Command(settings, tmp_path, "import", "ango", ango.dsn)

    for imported in (1, 2):

        async def reached(imported: int = imported) -> bool:
            return bool(await stores.postgres.fetchval("SELECT count(*) = $1 FROM imported_batches", imported))

        with command.start() as process:
            await kill_when(process, reached)
        await _balanced(stores)
    done = (await command("--json")).json
    assert done["codes"] + done["unchanged"] == 20_000
    assert await stores.postgres.fetchval("SELECT count(*) FROM redemptions") == 10_000
    for batch, client in ((BATCH, A), (ENDED, B)):
        assert (await check_agreement(stores, batch, client)).issued == 5_000
    await _balanced(stores)
    shown = await command()
    assert "unchanged              20,000" in shown.out

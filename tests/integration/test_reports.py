"""Reports: every row once, the same as in the lists, in each format, and no text that is read as a formula."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import openpyxl
import orjson
import pytest

from issuer.batches.rules import parse_rules
from issuer.batches.store import BatchChanges, change_batch
from issuer.http.admin.batches import show_batch
from issuer.reports import spool
from issuer.reports.catalogue import REPORTS
from issuer.reports.formats import guard_formula
from issuer.reports.report import BATCHES, REDEMPTIONS, Filter, Report
from issuer.reports.rows import Row, Rows
from issuer.reports.spool import ReportTooLargeError, WorkbookError, workbook
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.stores import Stores
from tests.support.recording import record, shop_of
from tests.support.report_formats import as_csv, as_json, as_workbook, rows_of

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://x","y")',
    "+1",
    "-1",
    "@x",
    "＝1",
    "plain",
    'quote"comma,',
    " =1",
    "007",
    "1e5",
    "TRUE",
]


async def write_ledger(
    stores: Stores, pool_id: int, batch: UUID, codes: list[str], customer: UUID | None = None
) -> None:
    await stores.postgres.execute(
        "INSERT INTO redemptions (pool_id, seq, batch_id, code, customer_id, redeemed_at, call_id, api_key_id, epoch)"
        " SELECT $1, seq, $2, code, $4, now(), gen_random_uuid(), 7, 1"
        " FROM unnest($3::text[]) WITH ORDINALITY AS c(code, seq)",
        pool_id, batch, codes, customer,
    )  # fmt: skip


@pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.name)
async def test_a_report_has_the_declared_columns_and_filters(stores: Stores, report: Report) -> None:
    """The query returns these columns and accepts these filters; an empty report is still a complete file."""
    async with stores.postgres.acquire() as connection:
        statement = await connection.prepare(report.query)
        assert tuple(column.name for column in statement.get_attributes()) == report.columns
        assert len(statement.get_parameters()) == len(report.filters)
    assert Filter.CLIENT in report.filters
    unknown: dict[Filter, Any] = {Filter.CLIENT: uuid4()}
    assert await as_json(stores, report, unknown) == await as_workbook(rows_of(stores, report, unknown), report) == []
    assert await as_csv(stores, report, unknown) == []
    with pytest.raises(ValueError, match="no filter"):
        report.arguments({cast("Filter", "colour"): uuid4()})


async def test_every_redemption_is_reported_once(stores: Stores) -> None:
    async with shop_of(stores, (3_000, 100)) as shop, shop_of(stores) as other:
        first, second = shop.pools
        customer = uuid4()
        shop.redeem_in_calls(26, 100)
        shop.redeem(4, client_id=second)
        shop.redeem(1, client_id=second, customer=customer, key="order-4711")
        other.redeem(7, customer=customer)
        await record(shop)
        await record(other)

        async def number(**values: Any) -> int:
            return len(
                await as_csv(stores, REDEMPTIONS, {Filter[name.upper()]: value for name, value in values.items()})
            )

        everything = await as_json(stores, REDEMPTIONS)
        assert len({(row["batch_id"], row["code"]) for row in everything}) == len(everything) == 2612
        assert await number() == 2612
        assert await number(batch=shop.batch) == 2605
        assert await number(batch=shop.batch, client=second) == 5
        assert await number(customer=customer) == 8
        assert await number(customer=customer, client=second) == 1
        assert [row["seq"] for row in await as_json(stores, REDEMPTIONS, {Filter.CLIENT: first})] == [*range(1, 2601)]
        at = datetime.fromisoformat(everything[0]["redeemed_at"])
        hour = timedelta(hours=1)
        assert await number(**{"from": at - hour, "to": datetime.now(UTC) + hour}) == 2612
        assert await number(to=at - hour) == await number(**{"from": datetime(2100, 1, 1, tzinfo=UTC)}) == 0
        (known,) = await as_json(stores, REDEMPTIONS, {Filter.CLIENT: second, Filter.CUSTOMER: customer})
        assert known["api_key_id"] == 7
        assert len(bytes.fromhex(known["idempotency_key_hash"])) == 16


async def test_from_is_inclusive_and_to_is_exclusive(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        await write_ledger(stores, shop.pool_id, shop.batch, ["A", "B", "C"])
        times = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 3)]
        for seq, at in enumerate(times, start=1):
            await stores.postgres.execute("UPDATE redemptions SET redeemed_at = $1 WHERE seq = $2", at, seq)
        found = await as_json(stores, REDEMPTIONS, {Filter.FROM: times[0], Filter.TO: times[2]})
        assert [row["code"] for row in found] == ["A", "B"]


async def test_batches_are_reported_with_their_counts(stores: Stores) -> None:
    async with shop_of(stores, (100, 50)) as shop, shop_of(stores) as other:
        first, second = shop.pools
        rules = {"maxpercustomer": 3, "timelimit": 0, "limits": [{"max": 1, "seconds": 60}]}
        batch = await change_batch(stores, shop.batch, BatchChanges(rules=parse_rules(rules)), actor="test")
        shop.redeem(5, client_id=first)
        shop.redeem(2, client_id=second)
        await record(shop)
        found = await as_json(stores, BATCHES)
        assert [row["id"] for row in found] == [str(other.batch), str(shop.batch)]
        shown = orjson.loads(orjson.dumps(show_batch(batch)))
        assert {name: found[1][name] for name in shown} == shown
        assert [(row["codes"], row["redeemed"]) for row in found] == [(100, 0), (150, 7)]
        (mine,) = await as_json(stores, BATCHES, {Filter.CLIENT: second})
        assert (mine["id"], mine["codes"], mine["redeemed"]) == (str(shop.batch), 50, 2)
        assert [row["id"] for row in await as_json(stores, BATCHES, {Filter.BATCH: other.batch})] == [str(other.batch)]
        assert await as_json(stores, BATCHES, {Filter.TO: batch.created_at}) == []
        (row,) = await as_csv(stores, BATCHES, {Filter.BATCH: shop.batch})
        cells = dict(zip(BATCHES.columns, row, strict=True))
        assert (orjson.loads(cells["rules"]), cells["paused"], cells["ends_at"]) == (rules, "false", "")
        (sheet,) = await as_workbook(rows_of(stores, BATCHES, {Filter.BATCH: shop.batch}), BATCHES)
        assert (orjson.loads(sheet["rules"]), sheet["paused"], sheet["ends_at"]) == (rules, False, None)


async def test_no_text_becomes_a_formula(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        await write_ledger(stores, shop.pool_id, shop.batch, FORMULAS)
        place = REDEMPTIONS.columns.index("code")
        assert [row[place] for row in await as_csv(stores, REDEMPTIONS, guard=False)] == FORMULAS
        safe = [row[place] for row in await as_csv(stores, REDEMPTIONS)]
        assert safe == [guard_formula(code) for code in FORMULAS]
        assert safe != FORMULAS
        async with workbook(REDEMPTIONS, rows_of(stores, REDEMPTIONS)) as (file, _):
            sheet = openpyxl.load_workbook(file)["redemptions"]
            cells = [sheet.cell(number, place + 1) for number in range(2, len(FORMULAS) + 2)]
            assert [(cell.value, cell.data_type) for cell in cells] == [(code, "s") for code in FORMULAS]
        await change_batch(stores, shop.batch, BatchChanges(name="=cmd()"), actor="test")
        assert [row[1] for row in await as_csv(stores, BATCHES)] == ["'=cmd()"]


async def test_a_csv_states_its_number_of_rows_on_request(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        await write_ledger(stores, shop.pool_id, shop.batch, ["A", "B"])
        *rows, last = await as_csv(stores, REDEMPTIONS, count=True)
        assert len(rows) == 2
        assert last == ["# rows", "2", *[""] * (len(REDEMPTIONS.columns) - 2)]


@pytest.mark.parametrize("count", [5_000, pytest.param(50_000, marks=(pytest.mark.long, pytest.mark.minutes))])
@pytest.mark.long
async def test_a_workbook_of_many_rows_is_read_back_unchanged(stores: Stores, count: int) -> None:
    async with shop_of(stores) as shop:
        odd = ["ü☀\U0001f600", "_x0041_", "a&<b>]]>", " space ", "\ufffe\uffff", "\u200b", "\U0010ffff"]
        codes = [f"{number:08d}" for number in range(count - len(odd))]
        await write_ledger(stores, shop.pool_id, shop.batch, codes + odd, uuid4())
        wanted = await as_json(stores, REDEMPTIONS)
        assert len(wanted) == count
        assert await as_workbook(rows_of(stores, REDEMPTIONS), REDEMPTIONS) == wanted


async def failing_after(rows: Rows, after: int) -> AsyncIterator[list[Row]]:
    async with aclosing(rows):
        async for chunk in rows:
            if after == 0:
                raise PostgresUnavailableError("simulated failure")
            after -= 1
            yield chunk


@pytest.mark.long
async def test_a_workbook_is_complete_or_absent(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with shop_of(stores) as shop:
        await write_ledger(stores, shop.pool_id, shop.batch, [str(number) for number in range(2_000)])

        async def make(rows: Any) -> None:
            async with workbook(REDEMPTIONS, rows) as (file, count):
                assert count == 2_000
                assert file.read(2) == b"PK"
                # Nothing would be left if this process were killed now.
                assert not [*os.scandir(tmp_path)]

        await make(rows_of(stores, REDEMPTIONS))
        with pytest.raises(PostgresUnavailableError):
            await make(failing_after(rows_of(stores, REDEMPTIONS), 2))
        with monkeypatch.context() as patch:
            patch.setattr(spool, "MAX_ROWS", 1_000)
            with pytest.raises(ReportTooLargeError, match="1,000"):
                await make(rows_of(stores, REDEMPTIONS))
        too_long = "x" * 32_768
        await stores.postgres.execute("UPDATE redemptions SET code = $1 WHERE seq = 7", too_long)
        with pytest.raises(WorkbookError, match="does not fit into a cell"):
            await make(rows_of(stores, REDEMPTIONS))
        assert not [*os.scandir(tmp_path)]

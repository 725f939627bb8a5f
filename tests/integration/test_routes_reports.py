"""Reports over HTTP: rows, refusals, tenants, and streams that are slow, aborted or disconnected."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import openpyxl
import orjson
import pytest

from issuer.loading.code_csv import CodeCsv
from issuer.loading.code_rows import CodeRows
from issuer.loading.file_clients import FileClients
from issuer.reports.catalogue import REPORTS
from issuer.reports.report import BATCHES, Filter
from issuer.settings import Auth, Settings
from tests.support.api import Api, problem
from tests.support.api_process import ApiProcess
from tests.support.databases import clone_database, drop_database
from tests.support.recording import drain
from tests.support.servers import PostgresServer, RedisServer, wait_until
from tests.support.service import settings_of

pytestmark = pytest.mark.shared_app

REPORT = "/api/v1/reports/redemptions"
ROWS = 300_000


def objects(text: str) -> list[dict[str, Any]]:
    """Return the rows of NDJSON without the last line, which must contain their number."""
    *rows, last = [orjson.loads(line) for line in text.split("\n")[:-1]]
    assert last == {"rows": len(rows)}
    return rows


async def report(api: Api, name: str, key: Any = None, **query: str | UUID) -> list[dict[str, Any]]:
    response = await api.client.get(
        f"/api/v1/reports/{name}",
        params={name: str(value) for name, value in query.items()} | {"format": "ndjson"},
        headers=key or api.admin,
    )
    assert response.status_code == 200, response.text
    return objects(response.text)


async def listed(api: Api, path: str, key: Any = None) -> list[dict[str, Any]]:
    """Return the items of all pages of a list."""
    found, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"{path}?limit=2" + (f"&cursor={cursor}" if cursor else ""), key)).json()
        found += page["items"]
        cursor = page["next_cursor"]
    return found


def has_rows(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Return whether the rows equal the expected ones in any order, compared by the columns of the latter."""
    names = expected[0].keys() if expected else ()
    key = orjson.dumps
    return sorted(key({name: row[name] for name in names}) for row in rows) == sorted(key(row) for row in expected)


async def test_a_report_has_the_rows_of_the_list_with_the_same_filter(api: Api) -> None:
    mine, other, customer = uuid4(), uuid4(), uuid4()
    rows = [(client, f"{name}{n}") for client, name in ((mine, "M"), (other, "O")) for n in range(5)]
    shared = (await api.upload(rows, name="Shared")).json()["batch_id"]
    own, _ = await api.batch("X", "Y", "Z", client=mine)
    for batch, client in ((shared, mine), (shared, other), (own, mine)):
        for customer_id in (customer, customer, uuid4()):
            assert (await api.redeem(batch, client, customer_id)).status_code == 200
    await drain(api.services.stores)
    bound = await api.key("admin", client_id=mine)
    for key in (api.admin, bound):
        for batch in (shared, own):
            expected = await listed(api, f"/api/v1/batches/{batch}/redemptions", key)
            assert expected
            assert has_rows(await report(api, "redemptions", key, batch_id=batch), expected)
        expected = await listed(api, f"/api/v1/customers/{customer}/redemptions", key)
        assert len(expected) == (4 if key is bound else 6)
        assert has_rows(await report(api, "redemptions", key, customer_id=customer), expected)
        batches = await listed(api, "/api/v1/batches", key)
        assert len(batches) == 2
        assert has_rows(await report(api, "batches", key), batches)
        total = [await api.get(f"/api/v1/batches/{batch['id']}", key) for batch in batches]
        stock = [response.json()["stock"] for response in total]
        figures = [(sum(pool["total"] for pool in pools), sum(pool["ledger"] for pool in pools)) for pools in stock]
        assert [(row["codes"], row["redeemed"]) for row in await report(api, "batches", key)] == figures
    assert {row["client_id"] for row in await report(api, "redemptions", bound)} == {str(mine)}
    assert await report(api, "redemptions", bound) == await report(api, "redemptions", client_id=mine)
    # A time whose plus sign must be percent-encoded in the query.
    at = (await report(api, "redemptions"))[3]["redeemed_at"].replace("Z", "+00:00")
    early, late = await report(api, "redemptions", to=at), await report(api, "redemptions", **{"from": at})
    assert (len(early) + len(late), len(late) > 0) == (9, True)


async def test_a_bound_key_gets_no_rows_of_another_client(api: Api) -> None:
    foreign, client = await api.batch("A")
    bound = await api.key("admin", client_id=uuid4())
    for entry in REPORTS.values():
        path = f"/api/v1/reports/{entry.name}"
        assert problem(await api.get(f"{path}?client_id={client}", bound), 403)["code"] == "bound_key"
        if Filter.BATCH in entry.filters:
            problem(await api.get(f"{path}?batch_id={foreign}", bound), 404, "no batch found")
            problem(await api.get(f"{path}?batch_id={uuid4()}"), 404, "no batch found")
        assert await report(api, entry.name, bound) == []


@pytest.mark.own_app
@pytest.mark.long
async def test_every_format(api: Api) -> None:
    batch, client = await api.batch("=A", "+B", "C")
    for _ in range(3):
        await api.redeem(batch, client)
    await drain(api.services.stores)
    response = await api.get(REPORT)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="redemptions.csv"'
    assert "content-length" not in response.headers
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["code"] for row in rows] == ["'=A", "'+B", "C"]
    counted = list(csv.reader(io.StringIO((await api.get(f"{REPORT}?count=true")).text)))
    assert counted[-1][:2] == ["# rows", "3"]
    assert [row["code"] for row in await report(api, "redemptions")] == ["=A", "+B", "C"]
    response = await api.get(f"{REPORT}?format=xlsx")
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["content-disposition"] == 'attachment; filename="redemptions.xlsx"'
    book = openpyxl.load_workbook(io.BytesIO(response.content))
    assert [row[2] for row in book["redemptions"].iter_rows(values_only=True)] == ["code", "=A", "+B", "C"]
    assert [*book["total"].iter_rows(values_only=True)] == [("rows", 3)]
    problem(await api.get(f"{REPORT}?format=xlsx&excel=true"), 400, "excel=true is for format=csv")
    head = await api.client.head(f"{REPORT}?format=xlsx", headers=api.admin)
    assert (head.status_code, head.content) == (200, b"")
    assert "content-length" not in head.headers


@pytest.mark.own_app
async def test_a_csv_for_excel_keeps_the_codes_and_can_be_loaded_again(api: Api) -> None:
    batch, client = await api.batch("0012", "MAR1", "=A")
    for _ in range(3):
        await api.redeem(batch, client)
    await drain(api.services.stores)
    data = (await api.get(f"{REPORT}?excel=true&count=true")).content
    assert data.startswith(b"\xef\xbb\xbfbatch_id;client_id;code;")
    assert [line.split(b";")[2] for line in data.split(b"\r\n")[1:4]] == [b'"=""0012"""', b'"=""MAR1"""', b"'=A"]
    rows = CodeRows(FileClients(api.services.stores.identity))
    reader = CodeCsv(rows)
    copied = reader.feed(data.replace(b"'=A", b"A")) + reader.finish()
    assert [line.split(b"\t")[3] for line in copied.splitlines()] == [b"0012", b"MAR1", b"A"]


@pytest.mark.parametrize(
    "query",
    ["format=pdf", "format=", "format=csv&format=csv", "count=1", "batch_id=x", "client_id=", "customer_id=%00",
     "from=yesterday", "from=2026-01-01", "to=2026-01-01T00:00:00", "colour=red", "limit=5"],
)  # fmt: skip
async def test_invalid_report_queries_are_refused(api: Api, query: str) -> None:
    problem(await api.get(f"{REPORT}?{query}"), 400)


async def test_each_report_has_its_own_filters(api: Api) -> None:
    assert Filter.CUSTOMER not in BATCHES.filters
    problem(await api.get(f"/api/v1/reports/batches?customer_id={uuid4()}"), 400)
    problem(await api.get("/api/v1/reports/colours"), 404, "not found")


async def test_the_number_of_concurrent_reports_is_bounded(api: Api) -> None:
    slots, tenants = api.services.slots.reports, [(f"tenant {number}",) for number in range(3)]
    taken = [tenant for tenant in tenants for _ in range(slots.total) if slots.try_take(tenant) is None]
    assert len(taken) == slots.total
    response = await api.get(REPORT)
    assert problem(response, 503, "too many reports at once")["code"] == "overloaded"
    assert response.headers["retry-after"] == "10"
    slots.release(taken[0])
    assert (await api.get(f"{REPORT}?format=xlsx")).status_code == 200
    assert (await api.get(REPORT)).status_code == 200


async def fill_ledger(database_url: str, count: int) -> None:
    """Create a pool with `count` redemptions."""
    connection = await asyncpg.connect(database_url)
    try:
        batch, client = uuid4(), uuid4()
        await connection.execute(
            "INSERT INTO batches (partition, id, name, redis_revision) VALUES (0, $1, 'Large', 1)", batch
        )
        pool: int = await connection.fetchval(
            "INSERT INTO pools (batch_id, client_id) VALUES ($1, $2) RETURNING id", batch, client
        )
        await connection.execute(
            "INSERT INTO redemptions"
            " (pool_id, seq, batch_id, code, customer_id, redeemed_at, call_id, api_key_id, epoch)"
            " SELECT $1, seq, $2, 'CODE-' || seq, gen_random_uuid(), now(), gen_random_uuid(), 7, 1"
            " FROM generate_series(1, $3) AS seq",
            pool, batch, count,
        )  # fmt: skip
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def large_ledger(redis_server: RedisServer, postgres_server: PostgresServer) -> Iterator[Settings]:
    """The settings of an installation whose ledger takes longer to send than to fill."""
    url = clone_database(postgres_server)
    asyncio.run(fill_ledger(url, ROWS))
    yield settings_of(redis_server, url)
    drop_database(postgres_server, url)


@contextmanager
def large(settings: Settings, directory: Path, **environment: str) -> Iterator[ApiProcess]:
    """Run an API process without authentication on a large ledger."""
    with ApiProcess(settings.model_copy(update={"auth": Auth.OFF}), directory, **environment) as process:
        yield process.wait_until_ready()


def peak_mb(process: ApiProcess) -> float:
    """Return the peak resident memory of the process."""
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def sessions(settings: Settings) -> list[int]:
    """Return the process ids of the Postgres sessions that run a report."""

    async def fetch() -> list[int]:
        connection = await asyncpg.connect(settings.database_url.get_secret_value())
        try:
            rows = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
                " AND query LIKE '%key_hash AS idempotency_key_hash%' AND pid <> pg_backend_pid()"
            )
            return [row["pid"] for row in rows]
        finally:
            await connection.close()

    return asyncio.run(fetch())


@pytest.mark.long
def test_a_slow_client_slows_down_the_query_and_memory_stays_bounded(large_ledger: Settings, tmp_path: Path) -> None:
    with large(large_ledger, tmp_path) as process:
        assert httpx.get(f"{process.url}{REPORT}?format=ndjson&to=1980-01-01T00:00:00Z").text == '{"rows":0}\n'
        before = peak_mb(process)
        with httpx.stream("GET", f"{process.url}{REPORT}?format=ndjson", timeout=60) as response:
            pieces = response.iter_raw()
            size, last = len(next(pieces)), b""
            # The client reads nothing now, so the transaction waits with most of its rows unread.
            wait_until(lambda: len(sessions(large_ledger)) == 1, "the report waits in its transaction")
            for piece in pieces:
                size += len(piece)
                last = (last + piece)[-100:]
        assert last.endswith(b'\n{"rows":%d}\n' % ROWS)
        assert size > 60_000_000
        assert peak_mb(process) - before < 15
        wait_until(lambda: sessions(large_ledger) == [], "the transaction has ended")


@pytest.mark.long
def test_an_aborted_report_is_an_incomplete_response(large_ledger: Settings, tmp_path: Path) -> None:
    with large(large_ledger, tmp_path) as process:
        with httpx.stream("GET", f"{process.url}{REPORT}", timeout=60) as response:
            pieces = response.iter_raw()
            next(pieces)
            (pid,) = sessions(large_ledger)
            asyncio.run(terminate(large_ledger, pid))
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                list(pieces)
        # A workbook has a Content-Length, so an aborted one is detected as well.
        assert httpx.get(f"{process.url}{REPORT}?format=xlsx&to=1980-01-01T00:00:00Z").headers["content-length"]


async def terminate(settings: Settings, pid: int) -> None:
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        assert await connection.fetchval("SELECT pg_terminate_backend($1)", pid)
    finally:
        await connection.close()


@pytest.mark.long
def test_a_disconnected_client_leaves_no_session_and_no_file(large_ledger: Settings, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with large(large_ledger, tmp_path, TMPDIR=str(spool)) as process:
        for query in ("format=csv", "format=xlsx") * 2:
            with socket.create_connection(process.listener.getsockname(), timeout=30) as client:
                client.sendall(f"GET {REPORT}?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                wait_until(lambda: len(sessions(large_ledger)) == 1, "the report is being read")
            wait_until(
                lambda: sessions(large_ledger) == [] and not [*spool.iterdir()],
                "the session and the file of the report are gone",
            )
        # Every slot is free again.
        for _ in range(3):
            assert httpx.get(f"{process.url}{REPORT}?to=1980-01-01T00:00:00Z").status_code == 200
        with socket.create_connection(process.listener.getsockname(), timeout=30) as client:
            client.sendall(f"GET {REPORT}?format=xlsx HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(lambda: any(spool.rglob("*.xlsx")) or any(spool.rglob("tmp*")), "a workbook is being written")
            os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not [*spool.iterdir()], "the files of the killed process are removed")


@pytest.mark.long
def test_a_report_is_aborted_after_its_timeout(large_ledger: Settings, tmp_path: Path) -> None:
    with large(large_ledger, tmp_path, ISSUER_REPORT_TIMEOUT_S="2") as process:
        with httpx.stream("GET", f"{process.url}{REPORT}?format=ndjson", timeout=60) as response:
            pieces = response.iter_raw()
            next(pieces)
            wait_until(lambda: sessions(large_ledger) == [], "the report was aborted")
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        # A workbook is sent once it is complete, so a time-out before that is answered with a problem.
        late = httpx.get(f"{process.url}{REPORT}?format=xlsx", timeout=60)
        assert (late.status_code, late.json()["code"]) == (503, "report_timeout")
        assert UUID(httpx.get(f"{process.url}/api/v1/batches").json()[0]["id"])

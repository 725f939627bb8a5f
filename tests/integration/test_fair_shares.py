"""One tenant takes all that it may: uploads, reports, streams, statements, connections. Another one is served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from issuer.batches.batch import NewBatch
from issuer.batches.store import create_batch
from issuer.generating.code_format import parse_code_format
from issuer.generating.job_runner import work_on_jobs
from issuer.generating.jobs import request_codes
from issuer.generating.request import GenerationRequest
from issuer.http.limiting.connections import ConnectionsByAddress
from issuer.http.limiting.fair_slots import tenant_of
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.api import UPLOAD, Api, problem, running_app
from tests.support.api_process import ApiProcess
from tests.support.coupon_service import SERVICE, create
from tests.support.raw_http import read_answer, status_of
from tests.support.servers import wait_until

PAST = "2020-01-01T00:00:00Z"
SLOTS_OF_ONE = 4
"""One client's share of the eight uploads that a process receives."""


@pytest.fixture
async def keys(api: Api) -> tuple[dict[str, str], dict[str, str]]:
    """Headers of two tenants."""
    return await api.key("admin", client_id=uuid4()), await api.key("admin", client_id=uuid4())


def share_used(response: httpx.Response, what: str) -> None:
    found = problem(response, 429, f"too many {what} of one client at once")
    assert found["code"] == "share_used"
    assert int(response.headers["retry-after"]) > 0


def begin_upload(process: ApiProcess, key: dict[str, str]) -> socket.socket:
    """Return a connection on which an upload of 1 GB has begun."""
    connection = socket.create_connection(process.listener.getsockname(), timeout=30)
    head = [f"POST {UPLOAD} HTTP/1.1", "Host: x", f"Authorization: {key['Authorization']}", "Expect: 100-continue"]
    head += ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000000", "", ""]
    connection.sendall("\r\n".join(head).encode())
    return connection


UPLOAD_BEGINS = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'


def first_line(connection: socket.socket) -> bytes:
    return connection.recv(65_536).split(b"\r\n")[0]


@pytest.mark.long
async def test_slow_uploads_of_one_tenant_leave_room_for_others(api: Api, settings: Settings, tmp_path: Path) -> None:
    slow, other = [await api.key("admin", client_id=uuid4()) for _ in range(2)]
    with ApiProcess(settings, tmp_path) as process, ExitStack() as opened:
        process.wait_until_ready()
        # The handler asks for the body, so it has its slot.
        for _ in range(SLOTS_OF_ONE):
            connection = opened.enter_context(begin_upload(process, slow))
            assert first_line(connection) == b"HTTP/1.1 100 Continue"
        assert first_line(opened.enter_context(begin_upload(process, slow))).startswith(b"HTTP/1.1 429 ")
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            files = {"file": ("c.csv", "code\nA\n")}
            uploaded = await client.post(UPLOAD, files=files, data={"batch_name": "B"}, headers=other)
            assert uploaded.status_code == 200, uploaded.text
            # Campaigns share their slots with what uploads do after their file has arrived.
            campaign = {"name": "C", "total": 3, "starts_at": PAST}
            for key in (slow, other):
                made = await client.post("/api/v1/campaigns", json=campaign, headers=key)
                assert made.status_code == 201, made.text
            metrics = (await client.get("/metrics", headers=api.admin)).text
            assert 'issuer_slots_refused_total{kind="uploads",reason="share"} 1.0' in metrics
            assert 'issuer_slots_refused_total{kind="uploads",reason="full"} 0.0' in metrics


@pytest.mark.long
async def test_an_upload_that_cannot_arrive_in_time_is_ended(api: Api, settings: Settings, tmp_path: Path) -> None:
    key = await api.key("admin", client_id=uuid4())
    with ApiProcess(settings, tmp_path, ISSUER_RECEIVE_TIMEOUT_S="1.5") as process:
        process.wait_until_ready()
        with begin_upload(process, key) as connection:
            assert first_line(connection) == b"HTTP/1.1 100 Continue"
            connection.sendall(UPLOAD_BEGINS)
            # 18 kB/s: each piece is progress, and 1 GB is far away.
            connection.settimeout(0.1)
            answer = b""
            while not answer:
                try:
                    connection.sendall(b"x" * 1_800)
                    answer = connection.recv(65_536)
                except TimeoutError:
                    continue
            assert status_of(answer) == 408
            assert b"request_timeout" in answer


async def test_loads_of_one_tenant_leave_a_slot(api: Api) -> None:
    loads, tenant = api.services.slots.loads, (uuid4(),)
    taken = 0
    while loads.try_take(tenant) is None:
        taken += 1
    batch, _ = await api.batch("A")
    generation = {"count": 10}
    path = f"/api/v1/batches/{batch}/codes/generate"
    assert (await api.client.post(path, json=generation, headers=api.admin)).status_code == 201
    # With all slots taken the worker generates the codes; what cannot wait for it is refused after a while.
    while loads.try_take((object(),)) is None:
        taken += 1
    assert taken == loads.total
    response = await api.client.post(path, json=generation, headers=api.admin)
    assert (response.status_code, response.json()["made"]) == (202, 0)


async def test_reports_of_one_tenant_leave_room_for_others(
    api: Api, keys: tuple[dict[str, str], dict[str, str]]
) -> None:
    greedy, other = keys
    reports, tenant = api.services.slots.reports, tenant_of(api.services.keys.find(secret(greedy)), "")
    while reports.try_take(tenant) is None:
        pass
    for query in ("", "?format=xlsx"):
        share_used(await api.get("/api/v1/reports/redemptions" + query, greedy), "reports")
    assert (await api.get("/api/v1/reports/redemptions", other)).status_code == 200
    # A response that is not sent holds nothing.
    assert (await api.client.head("/api/v1/reports/redemptions", headers=greedy)).status_code == 200


def secret(key: dict[str, str]) -> str:
    return key["Authorization"].removeprefix("Bearer ")


async def test_statements_of_one_tenant_leave_connections_for_others(
    api: Api, settings: Settings, keys: tuple[dict[str, str], dict[str, str]]
) -> None:
    greedy, other = keys
    made = await api.client.post("/api/v1/batches", json={"name": "Locked"}, headers=greedy)
    path, size = f"/api/v1/batches/{made.json()['id']}", settings.postgres_pool_size
    blocker, observer = [await asyncpg.connect(settings.database_url.get_secret_value()) for _ in range(2)]
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("SELECT FROM batches WHERE id = $1 FOR UPDATE", UUID(made.json()["id"]))
        changes = [
            asyncio.create_task(api.client.patch(path, json={"name": f"N{number}"}, headers=greedy))
            for number in range(2 * size)
        ]
        # All that the tenant may hold wait for the lock.
        async with asyncio.timeout(30):
            while await observer.fetchval(_WAITING) < size // 2:
                await asyncio.sleep(0.01)
        for _ in range(size):
            assert (await api.get("/api/v1/batches", other)).status_code == 200
        assert not any(change.done() for change in changes)
        assert await observer.fetchval(_WAITING) == size // 2
        await transaction.rollback()
        assert {response.status_code for response in await asyncio.gather(*changes)} == {200}
    finally:
        await blocker.close()
        await observer.close()


_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def test_streams_of_one_address_leave_room_for_others(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_event_streams": 12})
    async with running_app(limited) as api:
        campaign = {"name": "C", "total": 3, "starts_at": PAST, "public": True}
        ids = [
            (await api.client.post("/api/v1/campaigns", json=campaign | {"client_id": str(uuid4())}, headers=api.admin))
            .json()["id"]
            for _ in range(2)
        ]  # fmt: skip
        streams = [await EventListener.of(api, ids[0], "192.0.2.1") for _ in range(6)]
        assert [stream.status for stream in streams] == [200] * 4 + [429] * 2
        streams += [await EventListener.of(api, ids[0], f"198.51.100.{number}") for number in range(3)]
        assert [stream.status for stream in streams[6:]] == [200, 200, 429], "half of them for one client"
        streams.append(await EventListener.of(api, ids[1], "203.0.113.9"))
        assert streams[-1].status == 200, "the campaign of another client"
        for stream in streams:
            await stream.close()
        assert (api.services.slots.streams.used, api.services.slots.streams_of_address.used) == (0, 0)


async def test_a_load_whose_time_ends_does_not_claim_that_nothing_was_added(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time ends while the codes are on their way to Redis, behind the commit."""
    limits: list[asyncio.Timeout] = []

    def timeout(_: float) -> asyncio.Timeout:
        limits.append(asyncio.timeout(None))
        return limits[0]

    async def slow(*_: Any, **__: Any) -> None:
        limits[0].reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    monkeypatch.setattr("issuer.http.loading.asyncio", SimpleNamespace(timeout=timeout))
    monkeypatch.setattr("issuer.loading.preload.load_pool_of_batch", slow)
    files = {"file": ("c.csv", f"client_id,code\n{uuid4()},A\n")}
    answer = problem(
        await api.client.post(UPLOAD, files=files, data={"batch_name": "B"}, headers=api.admin),
        503,
        "adding the codes took too long",
    )
    assert await api.owner.fetchval("SELECT count(*) FROM codes") == 1
    assert "nothing was added" not in answer["detail"]
    monkeypatch.undo()
    again = await api.client.post(UPLOAD, files=files, data={"batch_name": "B"}, headers=api.admin)
    assert (again.json()["loaded"], again.json()["duplicates_in_other_batches"]) == (0, 1)


async def test_a_list_of_codes_holds_its_slot_until_it_was_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in memory as a whole: many clients that read slowly must not fill it."""
    campaign, slots = await create(api), api.services.slots.lists
    reads, reading, more = [0], asyncio.Event(), asyncio.Event()

    async def send(_: Any) -> None:
        reads.append(slots.used)
        reading.set()
        await more.wait()

    slow = asyncio.create_task(list_codes(api, campaign, send))
    await reading.wait()
    more.set()
    await slow
    assert (max(reads), slots.used) == (1, 0)

    # The pace of a report counts here, too: with no time left the first piece is the last one.
    monkeypatch.setattr("issuer.http.reading_pace.GRACE_S", -1e9)
    sent = []

    async def note(message: Any) -> None:
        sent.append(message)

    await list_codes(api, campaign, note)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert slots.used == 0


async def list_codes(api: Api, campaign: str, send: Any) -> None:
    """Ask for the issued codes of a campaign over ASGI."""
    path, body = f"{SERVICE}/GetCampaign", f'{{"campaignId": "{campaign}"}}'.encode()
    headers = {"host": "issuer", "content-type": "application/json", **api.admin}

    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            # The client stays.
            await asyncio.Event().wait()
        return messages.pop()

    await api.app(asgi_scope(path, "192.0.2.1", "POST", headers), receive, send)


def asgi_scope(path: str, address: str, method: str = "GET", headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": (address, 1), "server": ("issuer", 80), "state": {},
    }  # fmt: skip


class EventListener:
    """A listener to a campaign's events from an address, over ASGI."""

    def __init__(self, api: Api, campaign_id: str, address: str) -> None:
        self.status = 0
        self._begun = asyncio.Event()
        self._left = asyncio.Event()
        self._task = asyncio.create_task(self._listen(api, f"/api/v1/campaigns/{campaign_id}/events", address))

    @classmethod
    async def of(cls, api: Api, campaign_id: str, address: str) -> EventListener:
        """Return a listener whose response has begun."""
        listener = cls(api, campaign_id, address)
        await listener._begun.wait()
        return listener

    async def _listen(self, api: Api, path: str, address: str) -> None:
        async def receive() -> dict[str, Any]:
            await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self._begun.set()

        await api.app(asgi_scope(path, address), receive, send)

    async def close(self) -> None:
        self._left.set()
        await self._task


def test_connections_are_counted_by_address(settings: Settings) -> None:
    refused: list[tuple[str, str]] = []
    limited = settings.model_copy(
        update={"max_connections": 100, "max_connections_per_address": 2, "trusted_proxies": "10.0.0.0/8"}
    )
    limit = ConnectionsByAddress(limited, lambda kind, reason: refused.append((kind, reason)))
    assert [limit.take("192.0.2.1") for _ in range(3)] == [True, True, False]
    # Other addresses, a whole /64 for one, trusted proxies, and sockets without an address.
    assert limit.take("192.0.2.2")
    assert [limit.take(f"2001:db8::{number}") for number in range(1, 4)] == [True, True, False]
    assert limit.take("2001:db8:0:1::1")
    assert all(limit.take("10.1.2.3") for _ in range(10))
    assert all(limit.take(None) for _ in range(10))
    limit.release("192.0.2.1")
    limit.release("10.1.2.3")
    assert limit.take("192.0.2.1")
    limit.note_full()
    assert refused == [("connections", "share")] * 2 + [("connections", "full")]


def test_connections_of_one_address_are_bounded(settings: Settings, tmp_path: Path) -> None:
    environment = {"ISSUER_TRUSTED_PROXIES": "none", "ISSUER_MAX_CONNECTIONS_PER_ADDRESS": "3"}
    with ApiProcess(settings, tmp_path, **environment) as process, ExitStack() as opened:
        process.wait_until_ready()

        def connect(source: str) -> socket.socket:
            address = process.listener.getsockname()
            return opened.enter_context(socket.create_connection(address, timeout=30, source_address=(source, 0)))

        def ask(connection: socket.socket) -> int:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            return status_of(read_answer(connection)[0])

        def is_served(source: str) -> bool:
            try:
                return ask(connect(source)) == 200
            except OSError:
                return False

        kept = [connect("127.0.0.2") for _ in range(3)]
        assert [ask(connection) for connection in kept] == [200] * 3
        refused = connect("127.0.0.2")
        answer, _ = read_answer(refused)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 10" in answer
        assert ask(connect("127.0.0.3")) == 200
        assert ask(kept[0]) == 200
        # A connection that ends makes room, as soon as the server has noticed.
        kept[1].close()
        wait_until(lambda: is_served("127.0.0.2"), "another connection of the address is served")


async def test_the_worker_generates_for_each_client_in_turn(stores: Stores, monkeypatch: Any) -> None:
    """A client with many jobs, which it keeps adding to, gets every other chunk, not more."""
    monkeypatch.setattr("issuer.generating.job_runner.BATCH_SIZE", 2)
    many, few, form = uuid4(), uuid4(), parse_code_format({"length": 12})
    batches = {
        client: (await create_batch(stores, NewBatch("B"), client_id=client, actor="test")).id for client in (many, few)
    }

    async def order(client: UUID, count: int) -> None:
        request = GenerationRequest(batches[client], client, form, count, "test")
        await request_codes(stores, request, bounded=True)

    for _ in range(3):
        await order(many, 2)
    await order(few, 6)
    served = []
    for _ in range(6):
        before = await made_by_client(stores)
        assert await work_on_jobs(stores)
        after = await made_by_client(stores)
        served += [client for client in after if after[client] != before.get(client, 0)]
        if served[-1] == many:
            await order(many, 2)
    assert served == [many, few] * 3


async def made_by_client(stores: Stores) -> dict[UUID, int]:
    rows = await stores.postgres.fetch("SELECT client_id, sum(made)::int AS made FROM generation_jobs GROUP BY 1")
    return {UUID(bytes=row["client_id"].bytes): row["made"] for row in rows}

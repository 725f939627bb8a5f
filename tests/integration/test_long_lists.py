"""Lists without pages: they are complete however long they are, and other requests are answered while they are sent."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import orjson
import pytest

from issuer.batches.batch import NewBatch
from issuer.batches.store import create_batch
from issuer.paging import CHUNK_SIZE
from tests.support.api import Api

pytestmark = pytest.mark.shared_app

COUNT = 3 * CHUNK_SIZE


class LongResponse:
    """A response over ASGI, in the pieces in which it is sent. Another request is answered before the second one."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.pieces: list[bytes] = []
        self.status_between = 0

    async def get(self, path: str, query: bytes = b"") -> Any:
        headers = [(b"authorization", self._api.admin["Authorization"].encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "", "headers": headers,
            "client": ("192.0.2.1", 1), "server": ("issuer", 80), "state": {},
        }  # fmt: skip
        await self._api.app(scope, self._receive, self._send)
        return orjson.loads(b"".join(self.pieces))

    async def _receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            if len(self.pieces) == 1:
                # It needs Postgres, and the list continues only after its answer.
                self.status_between = (await self._api.get("/api/v1/audit")).status_code
            self.pieces.append(message["body"])


async def test_others_are_answered_while_all_batches_are_listed(api: Api) -> None:
    await api.services.stores.postgres.execute(
        "INSERT INTO batches (partition, id, name, redis_revision, created_at)"
        " SELECT 0, gen_random_uuid(), n::text, 1, '2020-01-01'::timestamptz + n / 7 * interval '1 s'"
        " FROM generate_series(1, $1) n",
        COUNT,
    )
    response = LongResponse(api)
    listed = await response.get("/api/v1/batches")
    assert response.status_between == 200
    assert max(piece.count(b'"expired"') for piece in response.pieces) <= CHUNK_SIZE
    assert sorted(int(batch["name"]) for batch in listed) == list(range(1, COUNT + 1))
    assert len({batch["id"] for batch in listed}) == COUNT
    # The same over pages.
    paged: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"/api/v1/batches?limit=500{cursor and '&cursor='}{cursor}")).json()
        paged, cursor = paged + page["items"], page["next_cursor"]
    assert [batch["id"] for batch in reversed(paged)] == [batch["id"] for batch in listed]


async def test_others_are_answered_while_the_stock_of_many_clients_is_shown(api: Api) -> None:
    batch = await create_batch(api.services.stores, NewBatch("Many clients"), client_id=uuid4(), actor="test")
    await api.services.stores.postgres.execute(
        "INSERT INTO pools (batch_id, client_id) SELECT $1, gen_random_uuid() FROM generate_series(2, $2)",
        batch.id, COUNT,
    )  # fmt: skip
    response = LongResponse(api)
    shown = await response.get(f"/api/v1/batches/{batch.id}")
    assert response.status_between == 200
    assert max(piece.count(b'"issued"') for piece in response.pieces) <= CHUNK_SIZE
    assert (shown["name"], len({pool["client_id"] for pool in shown["stock"]})) == ("Many clients", COUNT)


async def test_a_list_that_fails_half_way_is_not_taken_for_complete(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.services.stores.postgres.execute(
        "INSERT INTO batches (partition, id, name, redis_revision)"
        " SELECT 0, gen_random_uuid(), 'B', 1 FROM generate_series(1, $1)",
        COUNT,
    )
    response = LongResponse(api)

    def fail(*_: Any) -> Any:
        raise OSError("the connection is lost")

    send = response._send

    async def send_some(message: Any) -> None:
        await send(message)
        if len(response.pieces) == 1:
            monkeypatch.setattr(type(api.services.stores.postgres), "fetch", fail)

    monkeypatch.setattr(response, "_send", send_some)
    with pytest.raises(Exception, match=r"."):
        await response.get("/api/v1/batches")
    assert not b"".join(response.pieces).endswith(b"]")

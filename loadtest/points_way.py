"""The Postgres way of points, a baseline: each request locks the row of an account and writes its entry.

It has the same HTTP server and driver as the API, prepared statements, a connection pool and durable commits. It has no
API keys, no members, no expiry and no idempotency, which makes it faster.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from loadtest.floor import BARE_SERVER
from loadtest.postgres_way import CONNECTIONS, Pool

TABLE: Final = """
CREATE TABLE row_lock_accounts (id bigint PRIMARY KEY, seq bigint NOT NULL, available bigint NOT NULL)
  WITH (fillfactor = 80);
CREATE TABLE row_lock_entries (
    account_id      bigint NOT NULL,
    seq             bigint NOT NULL,
    op              text NOT NULL,
    points          bigint NOT NULL,
    available       bigint NOT NULL,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, seq)
);
"""
FILL: Final = "INSERT INTO row_lock_accounts SELECT i, 0, 1000000000 FROM generate_series(1, $1::bigint) AS i"

_LOCK: Final = "SELECT seq, available FROM row_lock_accounts WHERE id = $1 FOR UPDATE"
_CHANGE: Final = "UPDATE row_lock_accounts SET seq = seq + 1, available = $2 WHERE id = $1"
_ENTRY: Final = "INSERT INTO row_lock_entries (account_id, seq, op, points, available) VALUES ($1, $2, $3, $4, $5)"


class PointsWay:
    """The ASGI application: POST /{account}/earn and /{account}/spend, with the account's number as a UUID."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._pool: Pool | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
            return
        assert scope["type"] == "http"
        message = await receive()
        assert message["type"] == "http.request"
        _, account, op = scope["path"].split("/")
        points = orjson.loads(message["body"])["points"]
        seq = await self._change(UUID(account).int, op, points if op == "earn" else -points)
        body = orjson.dumps({"seq": seq})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        status = 403 if seq is None else 201
        await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _change(self, account_id: int, op: str, change: int) -> int | None:
        assert self._pool is not None
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(_LOCK, account_id)
            if row is None or row["available"] + change < 0:
                return None
            seq, available = int(row["seq"]) + 1, row["available"] + change
            await connection.execute(_ENTRY, account_id, seq, op, abs(change), available)
            await connection.execute(_CHANGE, account_id, available)
            return seq

    async def _run_lifespan(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        async with self._open():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        # A reset would add a round trip to every request, and the connections have no state to reset.
        self._pool = await asyncpg.create_pool(
            self._url, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_no_reset,
            server_settings={"synchronous_commit": "on"},
        )  # fmt: skip
        try:
            yield
        finally:
            await self._pool.close()


async def _no_reset(_: Any) -> None:
    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database-url", required=True)
    options = parser.parse_args()
    uvicorn.run(PointsWay(options.database_url), port=options.port, lifespan="on", **BARE_SERVER)


if __name__ == "__main__":
    main()

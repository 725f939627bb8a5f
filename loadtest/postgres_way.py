"""The Postgres way, a baseline: each request locks an available row and marks it as issued in one transaction.

It has the same HTTP server and driver as the API, prepared statements, a connection pool, a partial index of the
available rows, and durable commits. It has no API keys, no limits and no idempotency, which makes it faster.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
import orjson
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from loadtest.floor import BARE_SERVER

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool

CONNECTIONS: Final = 16

TABLE: Final = """
CREATE TABLE IF NOT EXISTS row_lock_codes (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    batch_id        uuid NOT NULL,
    client_id       uuid NOT NULL,
    code            text NOT NULL,
    customer_id     uuid,
    redeemed_at     timestamptz,
    PRIMARY KEY (batch_id, code)
);
CREATE INDEX IF NOT EXISTS row_lock_codes_free ON row_lock_codes (batch_id, client_id, id) WHERE redeemed_at IS NULL;
"""
FILL: Final = """
INSERT INTO row_lock_codes (batch_id, client_id, code)
SELECT $1, $2, 'ROWLOCK-' || lpad(to_hex(i), 12, '0') FROM generate_series(1, $3::bigint) AS i
"""

# Only the partial index has this order. With a primary key on the id the planner would choose that, and every request
# would scan all issued rows.
_LOCK: Final = """
SELECT code FROM row_lock_codes WHERE batch_id = $1 AND client_id = $2 AND redeemed_at IS NULL
ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_MARK: Final = "UPDATE row_lock_codes SET customer_id = $3, redeemed_at = now() WHERE batch_id = $1 AND code = $2"


class PostgresWay:
    """The ASGI application. Its connection pool is opened and closed by the lifespan of the server."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._pool: Pool | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
            return
        message = await receive()
        assert message["type"] == "http.request"
        fields = orjson.loads(message["body"])
        code = await self._redeem(UUID(fields["batchid"]), UUID(fields["clientid"]), UUID(fields["customerid"]))
        status, answer = (404, {"error": "no code found"}) if code is None else (200, {"code": code})
        body = orjson.dumps(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _redeem(self, batch_id: UUID, client_id: UUID, customer_id: UUID) -> str | None:
        assert self._pool is not None
        async with self._pool.acquire() as connection, connection.transaction():
            code: str | None = await connection.fetchval(_LOCK, batch_id, client_id)
            if code is not None:
                await connection.execute(_MARK, batch_id, code, customer_id)
            return code

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
    uvicorn.run(PostgresWay(options.database_url), port=options.port, lifespan="on", **BARE_SERVER)


if __name__ == "__main__":
    main()

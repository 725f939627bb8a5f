"""The server of the baselines that decide in Postgres: one transaction with a row lock for each request.

It has the same HTTP server and driver as the API, prepared statements, a connection pool, and durable commits.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from loadtest.floor import BARE_SERVER

if TYPE_CHECKING:
    PoolConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    PoolConnection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

CONNECTIONS: Final = 16


class Asked(NamedTuple):
    """A request. `key`: its Idempotency-Key."""

    path: str
    key: str | None
    body: bytes


class RowLockServer(ABC):
    """The ASGI application. Its connection pool is opened and closed by the lifespan of the server."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._pool: Pool | None = None

    @abstractmethod
    async def answer(self, connection: PoolConnection, asked: Asked) -> tuple[int, bytes]:
        """Return status and JSON of the answer; this runs in the transaction of the request."""

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
            return
        assert scope["type"] == "http"
        assert self._pool is not None
        message = await receive()
        assert message["type"] == "http.request"
        key = next((value.decode() for name, value in scope["headers"] if name == b"idempotency-key"), None)
        asked = Asked(scope["path"], key, message["body"])
        async with self._pool.acquire() as connection, connection.transaction():
            status, body = await self.answer(connection, asked)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _run_lifespan(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        # A reset would add a round trip to every request, and the connections have no state to reset.
        self._pool = await asyncpg.create_pool(
            self._url, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_no_reset,
            server_settings={"synchronous_commit": "on"},
        )  # fmt: skip
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    @classmethod
    def main(cls) -> None:
        """Serve until a signal, as the command line says."""
        parser = argparse.ArgumentParser(description=cls.__doc__)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--database-url", required=True)
        options = parser.parse_args()
        uvicorn.run(cls(options.database_url), port=options.port, lifespan="on", **BARE_SERVER)


async def _no_reset(_: Any) -> None:
    return

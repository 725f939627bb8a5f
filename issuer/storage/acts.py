"""Acts: what a caller asks for, and the answer to it, committed in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

from issuer.storage.postgres import AnyConnection, Pool, PoolConnection, unavailable_translated

Result = TypeVar("Result")


class Act(Generic[Result]):
    """An act of which no answer is kept: a command's, or a request's without an Idempotency-Key.

    Whatever carries out an act calls `begin` first and `keep` last in the transaction that makes it count, so that the
    answer is kept if and only if the act was carried out.
    """

    @asynccontextmanager
    async def transaction(self, postgres: Pool) -> AsyncIterator[PoolConnection]:
        """Run the block in one transaction, begun with `begin`. Raises PostgresUnavailableError."""
        async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
            await self.begin(connection)
            yield connection

    async def begin(self, connection: AnyConnection) -> None:
        """Raise if the act was carried out before, or is being carried out; nothing is changed then."""

    async def keep(self, connection: AnyConnection, result: Result) -> None:
        """Keep the answer to the act, whose result is `result`."""


UNKEPT: Final[Act[Any]] = Act()

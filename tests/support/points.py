"""Programs and accounts of points for tests, straight on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from issuer.loyalty.account import open_account
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from issuer.settings import Settings
from issuer.storage.postgres import Pool, close_pool, connect_pool

CLIENT = UUID("cccccccc-0000-4000-8000-00000000000a")
RATE = {"points": 1, "per": "1.00", "currency": "EUR"}


def earlier_buckets(days: int) -> str:
    """Return the SQL of an account's buckets as if they had been earned that many days earlier."""
    return f"""(
      SELECT coalesce(jsonb_agg(jsonb_build_array((b->>0)::bigint - {days * 86_400_000}, b->1) ORDER BY b->0), '[]')
      FROM jsonb_array_elements(buckets) AS b)"""


@dataclass(frozen=True, slots=True)
class PointsDesk:
    """One program with an executor."""

    postgres: Pool
    program: Program
    executor: LoyaltyExecutor

    async def account(self) -> int:
        async with self.postgres.acquire() as connection:
            return await open_account(connection, self.program, uuid4())

    async def accounts(self, count: int) -> list[int]:
        rows = await self.postgres.fetch(
            "INSERT INTO accounts (program_id, member_id) SELECT $1, gen_random_uuid() FROM generate_series(1, $2)"
            " RETURNING id",
            self.program.id,
            count,
        )
        return [row["id"] for row in rows]

    async def row(self, account_id: int) -> tuple[int, int, int, int, int]:
        """Return seq, available, held, pending and debt."""
        row = await self.postgres.fetchrow(
            "SELECT seq, available, held, pending, debt FROM accounts WHERE id = $1", account_id
        )
        assert row is not None
        return tuple(row)


@asynccontextmanager
async def points_desk(settings: Settings, *, timezone: str = "UTC", **terms: Any) -> AsyncIterator[PointsDesk]:
    """Open a program with these terms, and an executor."""
    postgres = await connect_pool(settings, size=4)
    try:
        values = {"earn": RATE, **terms}
        program = await create_program(
            postgres, CLIENT, "Club", parse_terms(values, "points"), timezone=timezone, actor="test"
        )
        executor = LoyaltyExecutor(postgres, timeout_s=10.0)
        try:
            yield PointsDesk(postgres, program, executor)
        finally:
            await executor.aclose()
    finally:
        await close_pool(postgres)

"""What API processes have counted, added to the series: by pool, minute and hour, and outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson

from issuer.storage.postgres import Pool, stateless, unavailable_translated

BATCH_SIZE: Final = 5_000
MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """What is counted apart. `pool`: batch and client; None: requests to the installation, whatever they asked for.

    `minute_s`: the beginning of the minute, in seconds since 1970.
    """

    minute_s: int
    pool: tuple[UUID, UUID] | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a process has answered in the last `period_s` seconds: requests by outcome, and by how long they took."""

    process: UUID
    host: str
    period_s: float
    outcomes: Mapping[str, int]
    durations: Sequence[int]


# Sorted: two processes that add to the same rows lock them in one order. A pool that does not exist has no row.
_COUNTED: Final = """
WITH counted AS (
  SELECT coalesce(p.id, 0) AS pool_id, date_trunc('{unit}', c.at) AS at, c.outcome, sum(c.count)::bigint AS count
  FROM unnest($1::timestamptz[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[])
    AS c(at, batch_id, client_id, outcome, count)
  LEFT JOIN pools p ON (p.batch_id, p.client_id) = (c.batch_id, c.client_id)
  WHERE p.id IS NOT NULL OR c.batch_id IS NULL GROUP BY 1, 2, 3)
INSERT INTO series_{unit}s AS s (pool_id, at, outcome, count) SELECT * FROM counted ORDER BY 1, 2, 3
ON CONFLICT (pool_id, at, outcome) DO UPDATE SET count = s.count + excluded.count"""
_MINUTES: Final = _COUNTED.format(unit="minute")
_HOURS: Final = _COUNTED.format(unit="hour")


async def add_counts(postgres: Pool, counts: Mapping[SeriesLine, int]) -> None:
    """Add what was counted, at most BATCH_SIZE lines, to minutes and hours in one transaction.

    Raises PostgresUnavailableError: it may have been added nevertheless.
    """
    lines = list(counts)
    arguments = (
        [datetime.fromtimestamp(line.minute_s, UTC) for line in lines],
        [None if line.pool is None else line.pool[0] for line in lines],
        [None if line.pool is None else line.pool[1] for line in lines],
        [line.outcome for line in lines],
        list(counts.values()),
    )
    async with unavailable_translated(), stateless(postgres) as connection, connection.transaction():
        # Seconds of figures are no loss that a wait for the disk would be worth.
        await connection.execute("SET LOCAL synchronous_commit = off")
        await connection.execute(_MINUTES, *arguments)
        await connection.execute(_HOURS, *arguments)


_PULSE: Final = """
INSERT INTO pulses (process, host, at, period_s, outcomes, durations) VALUES ($1, $2, now(), $3, $4::text::jsonb, $5)
ON CONFLICT (process) DO UPDATE
SET at = excluded.at, period_s = excluded.period_s, outcomes = excluded.outcomes, durations = excluded.durations"""


async def write_pulse(postgres: Pool, pulse: Pulse) -> None:
    """Replace the pulse of a process. Raises PostgresUnavailableError."""
    outcomes = orjson.dumps(dict(pulse.outcomes)).decode()
    async with unavailable_translated(), stateless(postgres) as connection, connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")
        await connection.execute(_PULSE, pulse.process, pulse.host, pulse.period_s, outcomes, list(pulse.durations))


async def end_pulse(postgres: Pool, process: UUID) -> None:
    """Remove the pulse of a process that ends. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        await postgres.execute("DELETE FROM pulses WHERE process = $1", process)

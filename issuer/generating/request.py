"""A request to generate codes, the checks before it is accepted, and its forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.batches.store import BatchEndedError, find_batch
from issuer.generating.code_format import MAX_CODES, CodeFormat, CodeFormatError, format_text
from issuer.generating.code_source import draw_code
from issuer.pools.counters import codes_to_load
from issuer.pools.memory import check_room, codes_bytes
from issuer.storage.postgres import Pool, unavailable_translated
from issuer.storage.stores import Stores


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to generate `count` codes of a format for a client in a batch. Raises CodeFormatError."""

    batch_id: UUID
    client_id: UUID
    code_format: CodeFormat
    count: int
    actor: str

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_CODES:
            raise CodeFormatError("count", f"must be 1 to {MAX_CODES:,}")


@dataclass(frozen=True, slots=True)
class GenerationForecast:
    """The effect of a request: a warning if its codes can be found by trial, and the Redis memory they need."""

    warning: str | None
    redis_bytes: int


async def check_request(stores: Stores, request: GenerationRequest) -> GenerationForecast:
    """Check whether a request can be accepted now. Changes nothing.

    Codes of the same format that earlier jobs generated or will generate in the batch count, too. Raises
    CodeSpaceError, FewCodesError, BatchNotFoundError, BatchEndedError, RedisMemoryError, RedisUnavailableError,
    PostgresUnavailableError.
    """
    batch = await find_batch(stores.postgres, request.batch_id)
    if batch.expired:
        raise BatchEndedError("the batch has ended: no codes can be added")
    async with unavailable_translated():
        row = await stores.postgres.fetchrow(
            _EARLIER, request.batch_id, format_text(request.code_format), request.client_id
        )
    assert row is not None
    warning = request.code_format.check_space(request.count + int(row["of_this_format"]))
    bytes_needed = await estimate_redis_bytes(stores, request, total=row["total"])
    await check_room(stores.redis, bytes_needed)
    return GenerationForecast(warning, bytes_needed)


async def estimate_redis_bytes(stores: Stores, request: GenerationRequest, *, total: int = 0) -> int:
    """Estimate the Redis memory for the codes that will be loaded into a pool whose total is `total` before."""
    to_load = await codes_to_load(stores, request.batch_id, {request.client_id: total + request.count})
    return codes_bytes(to_load, to_load * len(draw_code(request.code_format).encode()))


async def find_only_client(postgres: Pool, batch_id: UUID) -> UUID | None:
    """Return the client of a batch with one client; None if it has none yet. Raises CodeFormatError if it has more."""
    async with unavailable_translated():
        rows = await postgres.fetch("SELECT client_id FROM pools WHERE batch_id = $1 LIMIT 2", batch_id)
    if len(rows) > 1:
        raise CodeFormatError("client_id", "is needed: the batch has several clients")
    return UUID(bytes=rows[0]["client_id"].bytes) if rows else None


_EARLIER: Final = """
SELECT (SELECT coalesce(sum(CASE WHEN finished_at IS NULL THEN count ELSE made END), 0) FROM generation_jobs
        WHERE batch_id = $1 AND format = $2::text::jsonb) AS of_this_format,
       coalesce((SELECT total FROM pools WHERE batch_id = $1 AND client_id = $3), 0) AS total
"""

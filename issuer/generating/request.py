"""A request to generate codes, the checks before it is accepted, and its forecast."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.batches.store import BatchEndedError, find_batch
from issuer.generating.code_format import MAX_CODES, PLACE_MARK, SPACE_FACTOR, CodeFormat, CodeFormatError
from issuer.generating.code_source import draw_checked
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

    Codes that the format can spell and that the batch or the client in any batch has, or will have from earlier jobs,
    count, too, wherever they came from: what is accepted never fails for want of codes. Raises CodeSpaceError,
    FewCodesError, BatchNotFoundError, BatchEndedError, RedisMemoryError, RedisUnavailableError,
    PostgresUnavailableError.
    """
    batch = await find_batch(stores.postgres, request.batch_id)
    if batch.expired:
        raise BatchEndedError("the batch has ended: no codes can be added")
    warning = request.code_format.check_space(request.count + await _count_taken(stores.postgres, request))
    async with unavailable_translated():
        total = await stores.postgres.fetchval(_TOTAL, request.batch_id, request.client_id)
    bytes_needed = await estimate_redis_bytes(stores, request, total=total)
    await check_room(stores.redis, bytes_needed)
    return GenerationForecast(warning, bytes_needed)


async def estimate_redis_bytes(stores: Stores, request: GenerationRequest, *, total: int = 0) -> int:
    """Estimate the Redis memory for the codes that will be loaded into a pool whose total is `total` before.

    Raises FewCodesError if the unlucky words leave too few codes to draw one.
    """
    to_load = await codes_to_load(stores, request.batch_id, {request.client_id: total + request.count})
    # In a thread: a thousand words take a tenth of a second.
    example = await asyncio.to_thread(draw_checked, request.code_format)
    return codes_bytes(to_load, to_load * len(example.encode()))


async def _count_taken(postgres: Pool, request: GenerationRequest) -> int:
    """Return how many codes of the format the batch, or the client in any batch, has or will have from jobs.

    Without a scan of these codes where their number alone shows that there is enough space: then only codes of earlier
    jobs are counted.
    """
    code_format = request.code_format
    async with unavailable_translated():
        row = await postgres.fetchrow(_EARLIER, request.batch_id, code_format.spelling, request.client_id)
        assert row is not None
        if code_format.space >= SPACE_FACTOR * (request.count + row["existing"] + row["promised"]):
            return int(row["of_this_spelling"])
        # Without the scan where earlier jobs alone take too much.
        code_format.check_space(request.count + row["of_this_spelling"])
        like = code_format.shape.translate(_LIKE)
        # The characters of the alphabet are read as marks: at the places a code must have nothing else.
        characters = code_format.characters
        marks, shape = PLACE_MARK * len(characters), code_format.shape
        found = await postgres.fetchval(
            _COUNT_SPELLED, request.batch_id, like, characters, marks, shape, request.client_id
        )
    return int(found + row["promised"])


async def find_only_client(postgres: Pool, batch_id: UUID) -> UUID | None:
    """Return the client of a batch with one client; None if it has none yet. Raises CodeFormatError if it has more."""
    async with unavailable_translated():
        rows = await postgres.fetch("SELECT client_id FROM pools WHERE batch_id = $1 LIMIT 2", batch_id)
    if len(rows) > 1:
        raise CodeFormatError("client_id", "is needed: the batch has several clients")
    return UUID(bytes=rows[0]["client_id"].bytes) if rows else None


_TOTAL: Final = "SELECT coalesce((SELECT total FROM pools WHERE batch_id = $1 AND client_id = $2), 0)"
_EARLIER: Final = """
SELECT coalesce(sum(CASE WHEN finished_at IS NULL THEN count ELSE made END) FILTER (WHERE spelling = $2), 0)::bigint
         AS of_this_spelling,
       coalesce(sum(count - made) FILTER (WHERE finished_at IS NULL), 0)::bigint AS promised,
       (SELECT coalesce(sum(total), 0) FROM pools p JOIN batches b ON b.id = p.batch_id
         WHERE (p.batch_id = $1 OR p.client_id = $3) AND b.kind = 'codes')::bigint AS existing
FROM generation_jobs WHERE batch_id = $1 OR client_id = $3"""
_COUNT_SPELLED: Final = """
SELECT count(*) FROM codes
WHERE pool_id = ANY(ARRAY(SELECT id FROM pools WHERE batch_id = $1 OR client_id = $6)) AND code LIKE $2
  AND translate(code, $3, $4) = translate($5, $3, $4)"""
_LIKE: Final = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", PLACE_MARK: "_"})

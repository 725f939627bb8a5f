"""A CSV file of codes on its way into a batch: checked, numbered in Postgres in one transaction, brought to Redis."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from issuer.stores import Stores


class PreloadError(Exception):
    """The load as a whole is refused; nothing was changed. The message is for whoever asked."""


class HeaderError(PreloadError):
    """The file does not begin with a line that names the columns."""


class Source(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


class Phase(StrEnum):
    READING = "reading"
    NUMBERING = "numbering"
    LOADING = "loading"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was left out: its line in the file, counting from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What a load did to one pool. `total` and `in_redis` are the state after it."""

    client_id: UUID
    loaded: int
    total: int
    in_redis: int


@dataclass(frozen=True, slots=True)
class PreloadReport:
    """What became of every row: ``rows = loaded + duplicates_in_file + duplicates_in_batch + rejected``."""

    batch_id: UUID | None
    dry_run: bool
    rows: int
    loaded: int
    duplicates_in_file: int
    duplicates_in_batch: int
    rejected: int
    rejections: list[Rejection] = field(default_factory=list)
    """The first 1,000 of them."""
    pools: list[PoolReport] = field(default_factory=list)
    redis_bytes: int = 0
    """Estimate of the Redis memory for what this load brings there."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[Phase, int], None]
"""Told what is going on and how far it has come: bytes read, 0, codes brought to Redis."""


async def preload_csv(
    stores: Stores,
    source: Source | AsyncIterable[bytes],
    *,
    batch_id: UUID | None,
    client_id: UUID | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PreloadReport:
    """Adds the codes of a CSV file to a batch. `batch_id` None is for a dry run of a batch that is not there yet.

    Raises HeaderError, PreloadError, BatchNotFoundError, BatchEndedError, RedisMemoryError (nothing changed by any
    of them) and what `load_pool` raises (the codes are in the batch; a top-up or another run brings them to Redis).
    """
    raise NotImplementedError

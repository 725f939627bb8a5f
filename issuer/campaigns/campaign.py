"""A campaign as Postgres has it: a batch with one pool of generated codes, and who may ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from issuer.batches.batch import Batch, batch_from_row
from issuer.generating.code_format import CodeFormat, CodeFormatError, parse_code_format

HOUSE: Final = UUID("686f7573-6500-4000-8000-000000000000")
"""The client of campaigns that belong to nobody in particular."""
MAX_CODES_OF_CAMPAIGN: Final = 5_000_000
"""Codes that a campaign has at most."""
SYLLABLES_AND_DIGITS: Final = "가나다라마바사아자차카타파하0123456789"
DEFAULT_FORMAT: Final = CodeFormat(length=10, alphabet=SYLLABLES_AND_DIGITS)


class CampaignNotFoundError(LookupError):
    """There is no such campaign, or none that the caller may know of."""


class InvalidCampaignError(ValueError):
    """Not a campaign as it could be; the message says why."""


class CampaignState(StrEnum):
    """What who asks now is told. PREPARING: its codes are being made, or whoever made them has died."""

    PREPARING = "preparing"
    BEFORE = "before"
    OPEN = "open"
    PAUSED = "paused"
    SOLD_OUT = "sold_out"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign. Its id is that of its batch; `total`: codes that there are; `final_issued`: once it is history."""

    batch: Batch
    client_id: UUID
    code_format: CodeFormat
    public: bool
    is_ready: bool
    pool_id: int
    total: int
    final_issued: int | None

    @property
    def id(self) -> UUID:
        return self.batch.id

    @property
    def starts_at(self) -> datetime:
        assert self.batch.starts_at is not None
        return self.batch.starts_at


def state_of(
    *, ready: bool, ended: bool, paused: bool, starts_at_ms: int | None, now_ms: int, left: int | None
) -> CampaignState:
    """The state, in the order in which the script refuses. `left` None: not known, so not sold out."""
    if not ready:
        return CampaignState.ENDED if ended else CampaignState.PREPARING
    if ended:
        return CampaignState.ENDED
    if paused:
        return CampaignState.PAUSED
    if starts_at_ms is not None and now_ms < starts_at_ms:
        return CampaignState.BEFORE
    return CampaignState.SOLD_OUT if left == 0 else CampaignState.OPEN


def whole_ms(start: datetime) -> datetime:
    """The first whole ms that is not before it: Redis counts in ms, and no code may come early."""
    start = start.astimezone(UTC)
    return start + timedelta(microseconds=-start.microsecond % 1000)


def campaign_from_row(row: asyncpg.Record) -> Campaign:
    """From a row of the batch with those of the campaign and its pool."""
    return Campaign(
        batch=batch_from_row(row),
        client_id=UUID(bytes=row["client_id"].bytes),
        code_format=parse_code_format(orjson.loads(row["code_format"])),
        public=row["public"],
        is_ready=row["ready_at"] is not None,
        pool_id=row["pool_id"],
        total=row["total"],
        final_issued=row["final_issued"],
    )


def campaign_format(values: Mapping[str, Any]) -> CodeFormat:
    """The form of a campaign's codes, from decoded JSON: what is not given is as campaigns have it by default.

    Raises InvalidCampaignError.
    """
    default = {} if values.get("pattern") else {"length": DEFAULT_FORMAT.length}
    try:
        return parse_code_format({"alphabet": DEFAULT_FORMAT.alphabet, **default, **values})
    except CodeFormatError as error:
        raise InvalidCampaignError(f"code_format: {error}") from error


def show_format(code_format: CodeFormat) -> dict[str, Any]:
    """The format without what is as the default has it anyway."""
    return {name: value for name, value in code_format.to_json().items() if name != "unlucky_words" or value}

"""A campaign as stored in Postgres: a batch with one pool of generated codes, public or for keys only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from issuer.batches.batch import Batch, batch_from_row
from issuer.generating.alphabets import AlphabetName
from issuer.generating.code_format import CodeFormat, CodeFormatError, parse_code_format
from issuer.pools.pool_rate import PoolRate

DEFAULT_CLIENT: Final = UUID("686f7573-6500-4000-8000-000000000000")
"""The client of campaigns that are created without one."""
MAX_CODES_OF_CAMPAIGN: Final = 5_000_000
DEFAULT_FORMAT: Final = CodeFormat(length=10, alphabet=AlphabetName.UNAMBIGUOUS)
RPC_FORMAT: Final = CodeFormat(length=10, alphabet="가나다라마바사아자차카타파하0123456789")
"""The format that clients of the coupon service expect; a call of it cannot choose another one."""


class CampaignNotFoundError(LookupError):
    """The campaign does not exist, or the caller may not see it."""


class InvalidCampaignError(ValueError):
    """A value of the campaign is invalid; the message says why."""


class CampaignState(StrEnum):
    """The state that a request for a code meets.

    PREPARING: its codes are being generated, or the process that created it was killed.
    """

    PREPARING = "preparing"
    BEFORE = "before"
    OPEN = "open"
    PAUSED = "paused"
    SOLD_OUT = "sold_out"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign. Its id is that of its batch. `total`: codes in the pool. `final_issued`: set once it is drained."""

    batch: Batch
    client_id: UUID
    client_name: str | None
    code_format: CodeFormat
    public: bool
    is_ready: bool
    pool_id: int
    total: int
    final_issued: int | None
    rate: PoolRate

    @property
    def id(self) -> UUID:
        return self.batch.id

    @property
    def starts_at(self) -> datetime:
        assert self.batch.starts_at is not None
        return self.batch.starts_at


def derive_state(
    *, ready: bool, ended: bool, paused: bool, starts_at_ms: int | None, now_ms: int, left: int | None
) -> CampaignState:
    """Return the state, in the order in which the script refuses. `left` None: unknown, so not sold out."""
    if not ready:
        return CampaignState.ENDED if ended else CampaignState.PREPARING
    if ended:
        return CampaignState.ENDED
    if paused:
        return CampaignState.PAUSED
    if starts_at_ms is not None and now_ms < starts_at_ms:
        return CampaignState.BEFORE
    return CampaignState.SOLD_OUT if left == 0 else CampaignState.OPEN


def campaign_from_row(row: asyncpg.Record) -> Campaign:
    """Return the campaign of a row of the batch joined with the campaign and its pool."""
    return Campaign(
        batch=batch_from_row(row),
        client_id=UUID(bytes=row["client_id"].bytes),
        client_name=row["client_name"],
        code_format=parse_code_format(orjson.loads(row["code_format"])),
        public=row["public"],
        is_ready=row["ready_at"] is not None,
        pool_id=row["pool_id"],
        total=row["total"],
        final_issued=row["final_issued"],
        rate=PoolRate.of(row),
    )


def parse_campaign_format(values: Mapping[str, Any]) -> CodeFormat:
    """Return the format of a campaign's codes from decoded JSON; absent fields get the default of campaigns.

    Raises InvalidCampaignError.
    """
    default = {} if values.get("pattern") else {"length": DEFAULT_FORMAT.length}
    try:
        return parse_code_format({"alphabet": DEFAULT_FORMAT.alphabet, **default, **values})
    except CodeFormatError as error:
        raise InvalidCampaignError(f"code_format: {error}") from error


def show_format(code_format: CodeFormat) -> dict[str, Any]:
    """Return the format as JSON, without unlucky words if there are none."""
    return {name: value for name, value in code_format.to_json().items() if name != "unlucky_words" or value}

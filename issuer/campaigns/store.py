"""Create, change, extend, end, find and list campaigns. The fields of the batch are changed through the batch."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from issuer.access import audit
from issuer.batches.batch import NewBatch, Unset, check_times, check_values
from issuer.batches.named import MAX_NAMED, AmbiguousNameError
from issuer.batches.store import (
    UNSET,
    BatchChanges,
    BatchEndedError,
    BatchNotFoundError,
    change_batch,
    create_batch,
    push_batch,
)
from issuer.campaigns.campaign import (
    DEFAULT_CLIENT,
    DEFAULT_FORMAT,
    MAX_CODES_OF_CAMPAIGN,
    Campaign,
    CampaignNotFoundError,
    InvalidCampaignError,
    campaign_from_row,
)
from issuer.generating.code_format import CodeFormat, CodeSpaceError, format_text
from issuer.generating.code_source import FewCodesError
from issuer.generating.job_runner import finish_job
from issuer.generating.jobs import JobState, request_codes
from issuer.generating.request import GenerationRequest
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.pools.pool_rate import RATE_COLUMNS, RATE_JOIN
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import (
    CAMPAIGN_LOCK,
    Pool,
    PoolConnection,
    PostgresUnavailableError,
    lock_of,
    own_connection,
    unavailable_translated,
)
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

_CAMPAIGNS: Final = f"""
SELECT b.*, c.client_id, c.code_format, c.public, c.ready_at, p.id AS pool_id, p.total, p.final_issued, {RATE_COLUMNS},
  c.created_at AS campaign_created_at, (SELECT name FROM clients WHERE clients.id = c.client_id) AS client_name
FROM campaigns c JOIN batches b ON b.id = c.batch_id
JOIN pools p ON p.batch_id = c.batch_id AND p.client_id = c.client_id
{RATE_JOIN}
WHERE ($1::uuid IS NULL OR c.client_id = $1)"""
_PROMISED: Final = """
SELECT (SELECT total FROM pools WHERE batch_id = $1 AND client_id = $2) + coalesce((SELECT sum(count - made)
  FROM generation_jobs WHERE batch_id = $1 AND client_id = $2 AND finished_at IS NULL), 0)::bigint"""
_OPEN_JOBS: Final = "SELECT id FROM generation_jobs WHERE batch_id = $1 AND client_id = $2 AND finished_at IS NULL"
_MARK_READY: Final = (
    "UPDATE campaigns SET ready_at = coalesce(ready_at, now()), revision = revision + 1 WHERE batch_id = $1"
)


@dataclass(frozen=True, slots=True)
class NewCampaign:
    """The values of a new campaign. Raises InvalidCampaignError, or InvalidBatchError for a name or time."""

    name: str
    total: int
    starts_at: datetime
    code_format: CodeFormat = DEFAULT_FORMAT
    public: bool = False
    client_id: UUID = DEFAULT_CLIENT

    def __post_init__(self) -> None:
        _, starts_at, _ = check_values(self.name, self.starts_at, None)
        assert starts_at is not None
        object.__setattr__(self, "starts_at", starts_at)
        _check_total(self.code_format, self.total)


@dataclass(frozen=True, slots=True)
class CampaignChanges:
    """Changes of a campaign; a field with its default changes nothing. `ended=True` ends it, which is final."""

    name: str | None = None
    starts_at: datetime | None = None
    paused: bool | None = None
    public: bool | None = None
    ended: bool = False
    total: int | None = None


async def create_campaign(stores: Stores, new: NewCampaign, *, actor: str, act: Act[Campaign] = UNKEPT) -> Campaign:
    """Create a campaign. Return it when it can issue: all codes are generated, and Redis is filled as configured.

    Raises InvalidCampaignError, RedisMemoryError, PoolError, RedisUnavailableError and PostgresUnavailableError. Then,
    and when it is cancelled, the campaign does not exist: its incomplete batch is ended.
    """
    batch = await create_batch(
        stores, NewBatch(new.name, starts_at=new.starts_at), client_id=new.client_id, actor=actor
    )
    try:
        async with unavailable_translated():
            await stores.postgres.execute(
                "INSERT INTO campaigns (batch_id, client_id, code_format, public) VALUES ($1, $2, $3::text::jsonb, $4)",
                batch.id, new.client_id, format_text(new.code_format), new.public,
            )  # fmt: skip
        # create_batch tolerates an unavailable Redis; a campaign needs it.
        await push_batch(stores, batch.id)
        await _fill(stores, batch.id, new.client_id, new.code_format, new.total, actor)
        # Only now the campaign exists: a repeat of the request after a crash before this commit creates another one.
        async with act.transaction(stores.postgres) as connection:
            await connection.execute(_MARK_READY, batch.id)
            detail = {"total": new.total, "public": new.public, "code_format": new.code_format.to_json()}
            await audit.record(
                connection, actor=actor, action="campaign.create", subject=f"batch:{batch.id}", detail=detail
            )
            campaign = await find_campaign(connection, batch.id)
            await act.keep(connection, campaign)
    except BaseException:
        await asyncio.shield(_abandon(stores, batch.id, actor))
        raise
    return campaign


async def change_campaign(
    stores: Stores, campaign_id: UUID, changes: CampaignChanges, *, client_id: UUID | None = None, actor: str
) -> Campaign:
    """Change a campaign. Return it when the change counts: from the next request on, `public` within 1 s.

    A larger `total` generates the missing codes; if this call is interrupted the worker does. It also completes a
    campaign whose creator was killed. Raises CampaignNotFoundError, InvalidCampaignError, InvalidBatchError,
    BatchEndedError, RedisMemoryError, PoolError, RedisUnavailableError and PostgresUnavailableError.
    """
    campaign = await find_campaign(stores.postgres, campaign_id, client_id=client_id)
    starts_at: datetime | Unset = UNSET
    if changes.starts_at is not None:
        checked, _ = check_times(changes.starts_at, None)
        assert checked is not None
        starts_at = checked
    if changes.total is not None and changes.total != campaign.total:
        _check_extension(campaign, changes)
    batch_changes = BatchChanges(
        name=changes.name, starts_at=starts_at, paused=changes.paused, expired=True if changes.ended else None
    )
    if batch_changes != BatchChanges():
        await change_batch(stores, campaign_id, batch_changes, client_id=client_id, of_campaign=True, actor=actor)
    if changes.public is not None and changes.public != campaign.public:
        await _change_public(stores.postgres, campaign, changes.public, actor)
    if changes.total is not None and (changes.total > campaign.total or not campaign.is_ready):
        await _extend(stores, campaign, changes.total, actor)
    return await find_campaign(stores.postgres, campaign_id)


async def find_campaign(
    postgres: Pool | PoolConnection, campaign_id: UUID, *, client_id: UUID | None = None
) -> Campaign:
    """Return a campaign. Raises CampaignNotFoundError, also if it belongs to another client than `client_id`."""
    async with unavailable_translated():
        row = await postgres.fetchrow(f"{_CAMPAIGNS} AND c.batch_id = $2", client_id, campaign_id)
    if row is None:
        raise CampaignNotFoundError("no campaign found")
    return campaign_from_row(row)


async def find_named_campaign(postgres: Pool, name: str) -> Campaign:
    """Return the campaign of that name which has not ended. Raises CampaignNotFoundError and AmbiguousNameError."""
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{_CAMPAIGNS} AND b.name = $2 AND b.ended_at IS NULL ORDER BY c.created_at DESC LIMIT $3",
            None, name, MAX_NAMED,
        )  # fmt: skip
    if not rows:
        raise CampaignNotFoundError("no campaign found")
    campaigns = [campaign_from_row(row) for row in rows]
    if len(campaigns) > 1:
        raise AmbiguousNameError(
            name, [campaign.id for campaign in campaigns], [campaign.batch for campaign in campaigns]
        )
    return campaigns[0]


async def list_campaigns(
    postgres: Pool, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[Campaign]:
    """Return one page of all campaigns, ended ones too, newest first. Raises InvalidCursorError."""
    created_at, last_id = decode_cursor("campaigns", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{_CAMPAIGNS} AND ($2::timestamptz IS NULL OR (c.created_at, c.batch_id) < ($2, $3::uuid))"
            " ORDER BY c.created_at DESC, c.batch_id DESC LIMIT $4",
            client_id, created_at, last_id, limit + 1,
        )  # fmt: skip
    positions = {row["id"]: (row["campaign_created_at"], UUID(bytes=row["id"].bytes)) for row in rows}
    campaigns = [campaign_from_row(row) for row in rows]
    return Page.of(campaigns, limit, lambda last: encode_cursor("campaigns", positions[last.id]))


async def _change_public(postgres: Pool, campaign: Campaign, public: bool, actor: str) -> None:
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        await connection.execute(
            "UPDATE campaigns SET public = $2, revision = revision + 1 WHERE batch_id = $1", campaign.id, public
        )
        detail = {"public": {"from": campaign.public, "to": public}}
        await audit.record(
            connection, actor=actor, action="campaign.change", subject=f"batch:{campaign.id}", detail=detail
        )


async def _extend(stores: Stores, campaign: Campaign, total: int, actor: str) -> None:
    await _fill(stores, campaign.id, campaign.client_id, campaign.code_format, total, actor)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute(_MARK_READY, campaign.id)
        detail = {"total": {"from": campaign.total, "to": total}}
        await audit.record(
            connection, actor=actor, action="campaign.extend", subject=f"batch:{campaign.id}", detail=detail
        )


async def _fill(
    stores: Stores, campaign_id: UUID, client_id: UUID, code_format: CodeFormat, total: int, actor: str
) -> None:
    """Generate the codes that are missing to `total` and load them. Concurrent calls generate no more than one."""
    jobs: list[UUID] = []
    # A connection of its own: jobs are requested over the pool, and calls that wait for the lock must not exhaust it.
    own = own_connection(stores.settings, timeout_s=stores.settings.postgres_timeout_s)
    async with unavailable_translated(), own as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *lock_of(CAMPAIGN_LOCK, campaign_id))
        missing = total - await connection.fetchval(_PROMISED, campaign_id, client_id)
        if missing > 0:
            try:
                job = await request_codes(
                    stores, GenerationRequest(campaign_id, client_id, code_format, missing, actor)
                )
            except (CodeSpaceError, FewCodesError) as error:
                raise InvalidCampaignError(f"code_format: {error}") from error
            jobs.append(job.id)
        # Include jobs of other calls: until they are finished, fewer codes exist than were promised.
        jobs += [UUID(bytes=row["id"].bytes) for row in await connection.fetch(_OPEN_JOBS, campaign_id, client_id)]
    for job_id in dict.fromkeys(jobs):
        job = await finish_job(stores, job_id)
        if job.state is JobState.FAILED:
            raise InvalidCampaignError(f"the codes could not be made: {job.problem}")


async def _abandon(stores: Stores, batch_id: UUID, actor: str) -> None:
    """End the batch of a campaign that could not be created; no caller has its id."""
    try:
        # If Redis is unavailable the worker pushes the end later.
        with suppress(RedisUnavailableError, BatchEndedError, BatchNotFoundError):
            await change_batch(stores, batch_id, BatchChanges(expired=True), actor=actor)
    except PostgresUnavailableError as error:
        log.warning("incomplete campaign not ended; end its batch", batch_id=str(batch_id), error=str(error))


def _check_extension(campaign: Campaign, changes: CampaignChanges) -> None:
    assert changes.total is not None
    if changes.total < campaign.total:
        raise InvalidCampaignError(f"total: there are {campaign.total:,} codes already, and a code is never taken back")
    if campaign.batch.ended_at is not None or changes.ended:
        raise BatchEndedError("the campaign was ended; that is final")
    _check_total(campaign.code_format, changes.total)


def _check_total(code_format: CodeFormat, total: int) -> None:
    if not 1 <= total <= MAX_CODES_OF_CAMPAIGN:
        raise InvalidCampaignError(f"total must be 1 to {MAX_CODES_OF_CAMPAIGN:,}")
    try:
        code_format.check_space(total)
    except CodeSpaceError as error:
        raise InvalidCampaignError(f"code_format: {error}") from error

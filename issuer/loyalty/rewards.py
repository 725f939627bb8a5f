"""Create, change, find and list rewards. None is deleted: purchases refer to them. One that ended is not taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from issuer.access import audit
from issuer.batches.batch import BATCHES, NOT_CAMPAIGN, OF_CLIENT, show_value
from issuer.loyalty.reward import (
    InvalidRewardError,
    NewReward,
    Reward,
    RewardChanges,
    RewardNotFoundError,
    reward_from_row,
)
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

_REWARDS: Final = (
    "SELECT id, program_id, name, cost, batch_id, starts_at, ends_at, created_at FROM rewards WHERE program_id = $1"
)

_INSERT: Final = """
INSERT INTO rewards (id, program_id, name, cost, batch_id, starts_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id, program_id, name, cost, batch_id, starts_at, ends_at, created_at"""

_OF_PROGRAM: Final = "SELECT client_id FROM loyalty_programs WHERE id = $1"


async def create_reward(
    postgres: Pool, program_id: UUID, new: NewReward, *, actor: str, act: Act[Reward] = UNKEPT
) -> Reward:
    """Create a reward of a program that exists. Raises InvalidRewardError (also for the batch of another client)."""
    async with act.transaction(postgres) as connection:
        await _check_batch(connection, program_id, new.batch_id)
        row = await connection.fetchrow(
            _INSERT, uuid4(), program_id, new.name, new.cost, new.batch_id, new.starts_at, new.ends_at
        )
        assert row is not None
        reward = reward_from_row(row)
        detail = {
            "program_id": str(program_id),
            "name": reward.name,
            "cost": reward.cost,
            "batch_id": str(reward.batch_id),
            "starts_at": _shown(reward.starts_at),
            "ends_at": _shown(reward.ends_at),
        }
        await audit.record(
            connection, actor=actor, action="reward.create", subject=f"reward:{reward.id}", detail=detail
        )
        await act.keep(connection, reward)
    return reward


async def change_reward(
    postgres: Pool,
    program_id: UUID,
    reward_id: UUID,
    changes: RewardChanges,
    *,
    actor: str,
    act: Act[Reward] = UNKEPT,
) -> Reward:
    """Change a reward. Purchases that were begun keep the cost and the batch that they began with.

    Raises RewardNotFoundError, InvalidRewardError and PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(f"{_REWARDS} AND id = $2 FOR NO KEY UPDATE", program_id, reward_id)
        if row is None:
            raise RewardNotFoundError("no reward found")
        reward = reward_from_row(row)
        changed = changes.values(reward)
        if changed:
            await _update(connection, reward, changed, actor)
        reward = replace(reward, **changed)
        await act.keep(connection, reward)
    return reward


async def find_reward(postgres: Pool | AnyConnection, program_id: UUID, reward_id: UUID) -> Reward:
    """Return a reward of a program. Raises RewardNotFoundError and PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(f"{_REWARDS} AND id = $2", program_id, reward_id)
    if row is None:
        raise RewardNotFoundError("no reward found")
    return reward_from_row(row)


async def list_rewards(
    postgres: Pool, program_id: UUID, *, limit: int = 100, cursor: str | None = None
) -> Page[Reward]:
    """Return one page of a program's rewards, ended ones too, oldest first. Raises InvalidCursorError."""
    created_at, last_id = decode_cursor("rewards", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{_REWARDS} AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3::uuid))"
            " ORDER BY created_at, id LIMIT $4",
            program_id, created_at, last_id, limit + 1,
        )  # fmt: skip
    rewards = [reward_from_row(row) for row in rows]
    return Page.of(rewards, limit, lambda last: encode_cursor("rewards", (last.created_at, last.id)))


async def _update(connection: AnyConnection, reward: Reward, changed: dict[str, Any], actor: str) -> None:
    if "batch_id" in changed:
        await _check_batch(connection, reward.program_id, changed["batch_id"])
    assignments = ", ".join(f"{column} = ${place}" for place, column in enumerate(changed, start=2))
    await connection.execute(f"UPDATE rewards SET {assignments} WHERE id = $1", reward.id, *changed.values())
    detail = {column: {"from": _shown(getattr(reward, column)), "to": _shown(changed[column])} for column in changed}
    await audit.record(connection, actor=actor, action="reward.change", subject=f"reward:{reward.id}", detail=detail)


async def _check_batch(connection: AnyConnection, program_id: UUID, batch_id: UUID) -> None:
    """Raise InvalidRewardError unless the program's client has a pool in that batch of codes.

    What a batch of another client is called reveals nothing: the message is the one for a batch that does not exist.
    """
    client_id = await connection.fetchval(_OF_PROGRAM, program_id)
    found = await connection.fetchval(
        f"SELECT EXISTS ({BATCHES} AND {NOT_CAMPAIGN} AND id = $2 AND {OF_CLIENT})", client_id, batch_id
    )
    if not found:
        raise InvalidRewardError("batch_id: the client of the program has no such batch of codes")


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else show_value(value)

"""Rewards of a program: stored, changed, listed, and refused for a batch of another client."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from issuer.batches.batch import NewBatch
from issuer.batches.store import create_batch
from issuer.loyalty.program_store import create_program
from issuer.loyalty.reward import (
    InvalidRewardError,
    NewReward,
    RewardChanges,
    RewardNotFoundError,
)
from issuer.loyalty.rewards import change_reward, create_reward, find_reward, list_rewards
from issuer.loyalty.terms import parse_terms
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import CommandInProcess

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


async def new_program(stores: Stores, client_id: UUID) -> UUID:
    program = await create_program(
        stores.postgres, client_id, "Beans", parse_terms({}, "points"), timezone="UTC", actor="test"
    )
    return program.id


async def new_batch(stores: Stores, client_id: UUID) -> UUID:
    return (await create_batch(stores, NewBatch("Mugs"), client_id=client_id, actor="test")).id


async def test_a_reward_is_created_changed_and_listed_within_its_program(stores: Stores) -> None:
    client, other = uuid4(), uuid4()
    program, foreign = await new_program(stores, client), await new_program(stores, other)
    batch, theirs = await new_batch(stores, client), await new_batch(stores, other)
    postgres = stores.postgres

    for refused in (theirs, uuid4()):
        # The message is the same, so it reveals nothing about a batch of another client.
        with pytest.raises(InvalidRewardError, match="has no such batch of codes"):
            await create_reward(postgres, program, NewReward("A mug", 100, refused), actor="test")
    mug = await create_reward(
        postgres, program, NewReward("A mug", 100, batch, NOON, NOON.replace(day=2)), actor="test"
    )
    pen = await create_reward(postgres, program, NewReward("A pen", 5, batch), actor="test")

    assert await find_reward(postgres, program, mug.id) == mug
    with pytest.raises(RewardNotFoundError):
        await find_reward(postgres, foreign, mug.id)
    with pytest.raises(RewardNotFoundError):
        await change_reward(postgres, foreign, mug.id, RewardChanges(cost=1), actor="test")
    with pytest.raises(InvalidRewardError, match="has no such batch"):
        await change_reward(postgres, program, mug.id, RewardChanges(batch_id=theirs), actor="test")
    with pytest.raises(InvalidRewardError, match="later than starts_at"):
        await change_reward(postgres, program, mug.id, RewardChanges(ends_at=NOON), actor="test")

    changed = await change_reward(postgres, program, mug.id, RewardChanges(cost=90, ends_at=None), actor="test")
    assert (changed.cost, changed.ends_at, changed.starts_at) == (90, None, NOON)
    assert await change_reward(postgres, program, mug.id, RewardChanges(cost=90), actor="test") == changed
    first = await list_rewards(postgres, program, limit=1)
    assert first.items == [changed]
    assert (await list_rewards(postgres, program, cursor=first.next_cursor)).items == [pen]
    acts = [
        row["action"] for row in await postgres.fetch("SELECT action FROM audit_log ORDER BY id") if "reward" in row[0]
    ]
    assert acts == ["reward.create", "reward.create", "reward.change"]


def test_values_of_a_reward_are_checked() -> None:
    new = NewReward("A mug", 100, uuid4(), NOON, NOON.replace(hour=13))
    assert new.starts_at == NOON
    for cost in (0, 10**12 + 1):
        with pytest.raises(InvalidRewardError, match="cost"):
            NewReward("A mug", cost, uuid4())
    with pytest.raises(InvalidRewardError, match="empty"):
        NewReward(" ", 1, uuid4())
    with pytest.raises(InvalidRewardError, match="later"):
        NewReward("A mug", 1, uuid4(), NOON, NOON)


def test_rewards_on_the_command_line(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = str(uuid4())
    programs = CommandInProcess(settings, tmp_path, monkeypatch, "loyalty", "programs")
    programs("create", "--name", "Beans", "--client", client)
    asyncio.run(_make_batch(settings, UUID(client)))
    issuer = CommandInProcess(settings, tmp_path, monkeypatch, "loyalty", "rewards")
    made = issuer("create", "Beans", "--name", "A mug", "--cost", "50", "--batch", "Mugs", "--json").json
    assert (made["name"], made["cost"], made["available"]) == ("A mug", 50, True)
    changed = issuer("change", "Beans", made["id"], "--cost", "60", "--ends-at", "2020-01-01T00:00:00Z", "--json").json
    assert (changed["cost"], changed["available"]) == (60, False)
    assert issuer("show", "Beans", made["id"], "--json").json == changed
    assert issuer("list", "Beans", "--json").json == [changed]
    assert "A mug" in issuer("list", "Beans").out
    for words, message in (
        (("show", "Beans", str(uuid4())), "no reward found"),
        (("create", "Beans", "--name", "B", "--cost", "0", "--batch", "Mugs"), "--cost must be a whole number"),
    ):
        refused = issuer(*words)
        assert refused.status == 2
        assert message in refused.err


async def _make_batch(settings: Settings, client_id: UUID) -> None:
    async with open_stores(settings) as stores:
        await new_batch(stores, client_id)

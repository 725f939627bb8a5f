"""…/programs/{program}/rewards: create, list, show and change what members take for points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from issuer.batches.batch import UNSET
from issuer.http.auth import Access
from issuer.http.fields import (
    PAGED,
    instant_field,
    json_object,
    json_response,
    name_field,
    page_query,
    page_response,
    path_id,
)
from issuer.http.loyalty.requests import PROGRAM_PATH, PROGRAMS_PATH, program_of
from issuer.http.naming import BATCH_FIELDS, named_batch
from issuer.http.operations import Operation, RequestContext
from issuer.loyalty.amounts import parse_points
from issuer.loyalty.program import Program
from issuer.loyalty.reward import InvalidRewardError, NewReward, Reward, RewardChanges
from issuer.loyalty.rewards import change_reward, create_reward, find_reward, list_rewards

REWARDS_PATH: Final = PROGRAM_PATH + "/rewards"
REWARD_PATH: Final = REWARDS_PATH + "/{reward_id}"
_FIELDS: Final = ("name", "cost", *BATCH_FIELDS, "starts_at", "ends_at")


async def get_rewards(context: RequestContext) -> Response:
    """Return a page of the rewards of a program, oldest first, ended ones too."""
    program = await program_of(context)
    limit, cursor = page_query(context.request)
    page = await list_rewards(context.services.stores.postgres, program.id, limit=limit, cursor=cursor)
    return page_response(page, lambda reward: reward.to_json(program.unit))


async def post_reward(context: RequestContext) -> Response:
    program = await program_of(context)
    values = await json_object(context.request, _FIELDS, exact=True)
    batch_id = await _batch_field(context, values, program)
    if batch_id is None:
        raise InvalidRewardError("batch is missing")
    new = NewReward(
        name_field(values),
        parse_points(values.get("cost"), program.unit, "cost"),
        batch_id,
        instant_field(values, "starts_at"),
        instant_field(values, "ends_at"),
    )

    async def show(reward: Reward) -> Response:
        response = json_response(reward.to_json(program.unit), 201)
        response.headers["location"] = f"{PROGRAMS_PATH}/{program.id}/rewards/{reward.id}"
        return response

    act = context.act(show)
    await create_reward(context.services.stores.postgres, program.id, new, actor=context.caller.actor, act=act)
    return act.response


async def get_reward(context: RequestContext) -> Response:
    program = await program_of(context)
    reward = await find_reward(context.services.stores.postgres, program.id, path_id(context.request, "reward_id"))
    return json_response(reward.to_json(program.unit))


async def patch_reward(context: RequestContext) -> Response:
    """Change a reward. Purchases that were begun keep the cost and the batch that they began with."""
    program = await program_of(context)
    values = await json_object(context.request, _FIELDS, exact=True)
    changes = RewardChanges(
        name=name_field(values) if "name" in values else None,
        cost=parse_points(values["cost"], program.unit, "cost") if "cost" in values else None,
        batch_id=await _batch_field(context, values, program),
        starts_at=instant_field(values, "starts_at") if "starts_at" in values else UNSET,
        ends_at=instant_field(values, "ends_at") if "ends_at" in values else UNSET,
    )

    async def show(reward: Reward) -> Response:
        return json_response(reward.to_json(program.unit))

    act = context.act(show)
    reward_id = path_id(context.request, "reward_id")
    await change_reward(
        context.services.stores.postgres, program.id, reward_id, changes, actor=context.caller.actor, act=act
    )
    return act.response


async def _batch_field(context: RequestContext, values: Mapping[str, Any], program: Program) -> UUID | None:
    batch = await named_batch(context, values, client_id=program.client_id)
    return None if batch is None else batch.id


OPERATIONS: Final = (
    Operation("GET", REWARDS_PATH, get_rewards, Access.ANY_KEY, query=PAGED),
    Operation("POST", REWARDS_PATH, post_reward, tries=True),
    Operation("GET", REWARD_PATH, get_reward, Access.ANY_KEY),
    Operation("PATCH", REWARD_PATH, patch_reward, tries=True),
)

"""Take a reward: a page that asks once more, and the purchase, whose code the overview shows from then on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid4

from starlette.responses import Response

from issuer.http.member_pages.visits import SignedInVisit, for_members
from issuer.http.pages.page import LocalizedPage
from issuer.ids import parse_uuid
from issuer.loyalty.account import AccountState
from issuer.loyalty.balances import read_balance
from issuer.loyalty.history import account_ids
from issuer.loyalty.outcome import Refusal, RefusalCode
from issuer.loyalty.purchase import NewPurchase, RequestKey
from issuer.loyalty.purchase_store import list_purchases
from issuer.loyalty.purchases import RequestKeyReusedError
from issuer.loyalty.reward import Reward, RewardNotFoundError, RewardUnavailableError
from issuer.loyalty.rewards import find_reward, list_rewards

MAX_REWARDS: Final = 50
MAX_CODES: Final = 20
_PAGE: Final = LocalizedPage("member_pages/reward.html", forms=True)


@dataclass(frozen=True, slots=True)
class OfferedReward:
    """A reward that can be taken now. `missing`: the points that the member lacks for it."""

    id: UUID
    name: str
    cost: int
    missing: int


@dataclass(frozen=True, slots=True)
class ReceivedCode:
    """The code of a purchase; None: it is on its way."""

    name: str
    code: str | None
    at: datetime


async def offered_rewards(here: SignedInVisit, balance: AccountState) -> list[OfferedReward]:
    """Return the rewards that can be taken now, the cheapest first."""
    page = await list_rewards(here.postgres, here.program.id, limit=MAX_REWARDS)
    rewards = sorted((reward for reward in page.items if reward.is_available), key=lambda reward: reward.cost)
    return [OfferedReward(one.id, one.name, one.cost, max(0, one.cost - balance.available)) for one in rewards]


async def received_codes(here: SignedInVisit) -> list[ReceivedCode]:
    """Return the codes that the member has taken, newest first, and those that are on their way."""
    accounts = await account_ids(here.postgres, here.program, here.found)
    purchases = await list_purchases(here.postgres, accounts, limit=MAX_CODES)
    rewards = await list_rewards(here.postgres, here.program.id, limit=1_000)
    names = {reward.id: reward.name for reward in rewards.items}
    return [
        ReceivedCode(names.get(one.reward_id, ""), one.code, one.created_at)
        for one in purchases.items
        if one.code is not None or not one.is_settled
    ]


@for_members
async def get_reward(here: SignedInVisit) -> Response:
    reward = await _reward(here)
    balance = await read_balance(here.postgres, here.program, here.found.account_id)
    # The key of the purchase: a form that is sent twice takes one reward.
    return here.page(_PAGE, reward=reward, balance=balance, key=uuid4().hex)


@for_members
async def post_reward(here: SignedInVisit) -> Response:
    fields = await here.visit.form()
    reward, services = await _reward(here), here.context.services
    key = RequestKey(
        sha256(f"page\0{here.member.id}\0{fields.get('key', '')}".encode()).digest(),
        sha256(reward.id.bytes).digest(),
    )
    customer = services.stores.identity(here.member.customer)
    new = NewPurchase(here.found.account_id, reward, here.program.client_id, customer, key)
    try:
        outcome = await services.purchases.buy(new)
    except (RequestKeyReusedError, RewardUnavailableError):
        return here.redirect(notice="reward-ended")
    if isinstance(outcome, Refusal):
        is_short = outcome.code is RefusalCode.INSUFFICIENT_POINTS
        return here.redirect(notice="reward-too-dear" if is_short else "reward-refused")
    if outcome.purchase.code is not None:
        return here.redirect(notice="reward-taken")
    return here.redirect(notice="reward-sold-out" if outcome.purchase.is_settled else "reward-on-its-way")


async def _reward(here: SignedInVisit) -> Reward:
    """Return the reward of the path. Raises RewardNotFoundError."""
    reward_id = parse_uuid(here.context.request.path_params["reward"])
    if reward_id is None:
        raise RewardNotFoundError("no reward found")
    return await find_reward(here.postgres, here.program.id, reward_id)

"""POST /till/{program}/accounts/{account}/reward: a member takes a reward, whose code the next page shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from issuer.contract.outcomes import Outcome
from issuer.http.auth import Access
from issuer.http.idempotency import request_digest
from issuer.http.loyalty.till.counter import ACCOUNT, account_of, show_account
from issuer.http.loyalty.till.till_acts import TillRefusedError, check_most
from issuer.http.loyalty.till.till_visit import TillVisit, staffed
from issuer.http.operations import Operation
from issuer.ids import parse_uuid
from issuer.loyalty.outcome import Refusal
from issuer.loyalty.purchase import Bought, NewPurchase, RequestKey
from issuer.loyalty.purchases import RequestKeyReusedError
from issuer.loyalty.reward import RewardNotFoundError, RewardUnavailableError
from issuer.loyalty.rewards import find_reward
from issuer.loyalty.till import TillAccount

FORM: Final = "reward"


@staffed
async def post_reward(till: TillVisit) -> Response:
    form = await till.visit.form()
    account = await account_of(till)
    try:
        await _buy(till, account, form)
    except TillRefusedError as refused:
        return await show_account(till, account, error=refused.error, at=FORM, status=409)
    return till.redirect(f"/accounts/{account.id}", FORM)


async def _buy(till: TillVisit, account: TillAccount, form: Mapping[str, str]) -> None:
    """Buy the reward once for the key of the form. Raises TillRefusedError."""
    services = till.context.services
    once, reward_id = form.get("once", ""), parse_uuid(form.get("reward", ""))
    if parse_uuid(once) is None or reward_id is None or account.customer is None:
        raise TillRefusedError("failed", FORM)
    scope = f"{till.program.client_id}\0till reward\0{once}"
    request = RequestKey(
        hashlib.sha256(scope.encode()).digest(), request_digest(str(account.id).encode(), str(reward_id).encode())
    )
    try:
        reward = await find_reward(services.stores.postgres, till.program.id, reward_id)
        check_most(till, reward.cost, FORM)
        customer = services.stores.identity(account.customer)
        new = NewPurchase(account.id, reward, till.program.client_id, customer, request, till.actor)
        outcome = await services.purchases.buy(new)
    except (RewardNotFoundError, RewardUnavailableError, RequestKeyReusedError) as error:
        raise TillRefusedError("failed", FORM) from error
    if isinstance(outcome, Refusal):
        raise TillRefusedError(str(outcome.code), FORM)
    if outcome.purchase.code is None:
        raise TillRefusedError(_reason(outcome), FORM)


def _reason(bought: Bought) -> str:
    """Return why there is no code, by its name in the template."""
    if not bought.purchase.is_settled:
        return "in_progress"
    return "reward_sold_out" if bought.answer is not None and bought.answer.outcome is Outcome.SOLD_OUT else "failed"


OPERATIONS = (Operation("POST", f"{ACCOUNT}/{FORM}", post_reward, Access.PUBLIC, page=True),)

"""…/members/{member}/purchases: points for the code of a reward."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, page_query, page_response, uuid_of
from issuer.http.idempotency import REPLAYED, Idempotency
from issuer.http.loyalty.refusals import refusal_problem
from issuer.http.loyalty.requests import MEMBER_PATH, actor_of, member_of, program_of
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, not_ready, outcome_problem
from issuer.http.wire import limit_problem
from issuer.loyalty.history import account_ids
from issuer.loyalty.member_store import ProgramMember
from issuer.loyalty.operations import Spend
from issuer.loyalty.outcome import Refusal
from issuer.loyalty.program import Program
from issuer.loyalty.purchase import Bought, NewPurchase, RequestKey
from issuer.loyalty.purchase_store import list_purchases
from issuer.loyalty.reward import Reward
from issuer.loyalty.rewards import find_reward

PURCHASES_PATH: Final = MEMBER_PATH + "/purchases"


async def get_purchases(context: RequestContext) -> Response:
    """Return a page of the purchases of a member in a program, newest first, also those before a merge."""
    program = await program_of(context)
    member = await member_of(context, program)
    limit, cursor = page_query(context.request)
    postgres = context.services.stores.postgres
    accounts = await account_ids(postgres, program, member)
    page = await list_purchases(postgres, accounts, limit=limit, cursor=cursor)
    return page_response(page, lambda purchase: purchase.to_json(program.unit))


async def post_purchase(context: RequestContext) -> Response:
    """Buy a reward. The answer has the code; the move keeps it for a repeat with the same Idempotency-Key."""
    program = await program_of(context)
    member = await member_of(context, program)
    values = await json_object(context.request, ("reward",))
    reward = await find_reward(context.services.stores.postgres, program.id, uuid_of(values.get("reward"), "reward_id"))
    if context.dry_run:
        return await _try(context, program, member, reward)
    services = context.services
    new = NewPurchase(
        member.account_id,
        reward,
        program.client_id,
        services.stores.identity(member.member.customer),
        _request_key(context.idempotency),
        actor_of(context),
    )
    outcome = await services.purchases.buy(new)
    if isinstance(outcome, Refusal):
        raise refusal_problem(outcome, program.unit)
    return _answer(context, outcome, program)


async def _try(context: RequestContext, program: Program, member: ProgramMember, reward: Reward) -> Response:
    """Return what the debit would be. Whether a code is left is known only when one is asked for."""
    reward.check_available(datetime.now(UTC))
    tried = await context.services.loyalty.execute(
        member.account_id, Spend(reward.cost), client_id=program.client_id, dry_run=True
    )
    if isinstance(tried, Refusal):
        raise refusal_problem(tried, program.unit)
    return json_response(reward.to_json(program.unit))


def _answer(context: RequestContext, bought: Bought, program: Program) -> Response:
    purchase, answer = bought.purchase, bought.answer
    if purchase.code is None:
        raise _problem(bought, answer)
    response = json_response(purchase.to_json(program.unit), 201)
    if bought.replayed:
        response.headers[REPLAYED] = "true"
    # The move is kept with the key, so nothing else has to be.
    context.idempotency.is_kept = True
    return response


def _problem(bought: Bought, answer: Answer | None) -> ProblemError:
    """Return the problem of a purchase without a code: it was undone, or is not settled yet."""
    if answer is None or not bought.purchase.is_settled:
        problem = not_ready("the purchase is being settled; repeat the request with its Idempotency-Key")
        problem.members["purchase"] = str(bought.purchase.id)
        return problem
    if answer.outcome is Outcome.SOLD_OUT:
        return ProblemError(409, "reward sold out", "reward_sold_out")
    if answer.retry_at_ms is not None:
        return limit_problem(answer.retry_at_ms)
    return outcome_problem(answer.outcome)


def _request_key(idempotency: Idempotency) -> RequestKey | None:
    if idempotency.key is None:
        return None
    text = "\0".join(map(str, idempotency.answer_key.values))
    return RequestKey(hashlib.sha256(text.encode()).digest(), idempotency.digest)


OPERATIONS: Final = (
    Operation("GET", PURCHASES_PATH, get_purchases, Access.ANY_KEY, query=PAGED),
    Operation("POST", PURCHASES_PATH, post_purchase, Access.REDEEM, tries=True),
)

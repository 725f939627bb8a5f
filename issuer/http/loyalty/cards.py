"""…/programs/{program}/cards: issue, list, show, assign, revoke and replace cards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, id_field, json_object, json_response, page_query, page_response
from issuer.http.loyalty.refusals import refusal_problem
from issuer.http.loyalty.requests import PROGRAM_PATH, actor_of, program_of
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.account import AccountState
from issuer.loyalty.amounts import parse_points
from issuer.loyalty.balances import read_balance
from issuer.loyalty.cards import (
    MAX_CARDS,
    Card,
    CardBlankError,
    CardNotFoundError,
    assign_card,
    find_card,
    find_valid_card,
    issue_cards,
    list_cards,
    replace_card,
    revoke_card,
)
from issuer.loyalty.gift_accounts import FirstValue, ValueRefusedError
from issuer.loyalty.member import MemberNotFoundError
from issuer.loyalty.member_store import find_member
from issuer.loyalty.program import Program
from issuer.loyalty.shown import show_balance
from issuer.loyalty.terms import POINTS
from issuer.storage.acts import Act

CARDS_PATH: Final = PROGRAM_PATH + "/cards"
CARD_PATH: Final = CARDS_PATH + "/{number:id}"
_FILTERS: Final = ("run_id", "member")


async def card_of(context: RequestContext, program: Program, *, revoked: bool = False) -> Card:
    """Return the card of the path; one that is revoked only with `revoked`.

    An unknown number counts as a failed lookup of the caller. Raises CardNotFoundError, CardRevokedError, and
    ProblemError over the limit of failed lookups.
    """
    return await find_typed(context, program, context.request.path_params["number"], revoked=revoked)


async def find_typed(context: RequestContext, program: Program, typed: str, *, revoked: bool = False) -> Card:
    """Return the card with a number that the caller gives. Raises as `card_of`."""
    services, caller = context.services, context.caller
    find = find_card if revoked else find_valid_card
    with services.lookup_limits.attempt(caller.key, caller.address) as attempt:
        try:
            return await find(services.stores.postgres, program.id, typed)
        except CardNotFoundError:
            await attempt.failed()
            raise


def account_of(card: Card) -> int:
    """Return the account of a card. Raises CardBlankError."""
    if card.account_id is None:
        raise CardBlankError
    return card.account_id


async def get_cards(context: RequestContext) -> Response:
    """Return a page of the cards of a program, in the order of issue."""
    program = await program_of(context)
    limit, cursor = page_query(context.request)
    query = context.request.query_params
    member_id = None if "member" not in query else (await _member(context, program, query["member"])).member.id
    page = await list_cards(
        context.services.stores.postgres, program, run_id=id_field(query, "run_id"), member_id=member_id,
        limit=limit, cursor=cursor,
    )  # fmt: skip
    return page_response(page, Card.to_json)


async def post_cards(context: RequestContext) -> Response:
    """Issue cards: of a member, or blank ones; in a program of a currency gift cards, with an amount each or empty."""
    program = await program_of(context)
    values = await json_object(context.request, ("count", "member", "amount"), exact=True)
    given = text_field(values, "member")
    member = None if given is None else await _member(context, program, given)
    value = None
    if values.get("amount") is not None:
        if member is not None or program.unit == POINTS:
            raise invalid("amount is for gift cards: of no member, in a program whose unit is a currency")
        value = FirstValue(parse_points(values["amount"], program.unit, "amount"), actor_of(context))

    async def show(cards: Sequence[Card]) -> Response:
        return json_response({"run_id": str(cards[0].run_id), "items": [card.to_json() for card in cards]}, 201)

    act = context.act(show)
    try:
        await issue_cards(
            context.services.stores.postgres,
            program,
            _count(values),
            account_id=None if member is None else member.account_id,
            value=value,
            actor=context.caller.actor,
            act=act,
        )
    except ValueRefusedError as error:
        raise refusal_problem(error.refusal, program.unit) from error
    return act.response


async def get_card(context: RequestContext) -> Response:
    """Return a card with the balance of its account; null: it is blank."""
    program = await program_of(context)
    card = await card_of(context, program)
    return json_response({**card.to_json(), "balance": await balance_of(context, program, card)})


async def balance_of(context: RequestContext, program: Program, card: Card) -> dict[str, Any] | None:
    """Return the figures of the account of a card; None: it has none."""
    if card.account_id is None:
        return None
    state: AccountState = await read_balance(context.services.stores.postgres, program, card.account_id)
    return show_balance(state, program)


async def post_assign(context: RequestContext) -> Response:
    program = await program_of(context)
    card = await card_of(context, program)
    given = text_field(await json_object(context.request, ("member",)), "member")
    if given is None:
        raise invalid("member is required: its id or ref")
    account_id = (await _member(context, program, given)).account_id
    return await _changed(
        context,
        lambda act: assign_card(
            context.services.stores.postgres, program, card.number, account_id, actor=context.caller.actor, act=act
        ),
    )


async def post_revoke(context: RequestContext) -> Response:
    program = await program_of(context)
    card = await card_of(context, program, revoked=True)
    return await _changed(
        context,
        lambda act: revoke_card(
            context.services.stores.postgres, program, card.number, actor=context.caller.actor, act=act
        ),
    )


async def post_replace(context: RequestContext) -> Response:
    """Revoke a card and issue another one for its account."""
    program = await program_of(context)
    card = await card_of(context, program)
    return await _changed(
        context,
        lambda act: replace_card(
            context.services.stores.postgres, program, card.number, actor=context.caller.actor, act=act
        ),
        201,
    )


async def _changed(
    context: RequestContext, change: Callable[[Act[Card]], Awaitable[Card]], status: int = 200
) -> Response:
    """Carry out an act on a card and return the response that shows the card after it."""

    async def show(card: Card) -> Response:
        return json_response(card.to_json(), status)

    act = context.act(show)
    await change(act)
    return act.response


async def _member(context: RequestContext, program: Program, given: str) -> Any:
    """Return the member that a request names. Raises MemberNotFoundError."""
    found = await find_member(context.services.stores.postgres, program, given)
    if found.member.erased_at is not None:
        raise MemberNotFoundError
    return found


def _count(values: Mapping[str, Any]) -> int:
    count = values.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_CARDS:
        raise invalid(f"count must be a whole number from 1 to {MAX_CARDS:,}")
    return count


OPERATIONS: Final = (
    Operation("GET", CARDS_PATH, get_cards, query=(*_FILTERS, *PAGED)),
    Operation("POST", CARDS_PATH, post_cards, Access.ANY_KEY, tries=True),
    Operation("GET", CARD_PATH, get_card, Access.ANY_KEY),
    Operation("POST", CARD_PATH + "/assign", post_assign, Access.ANY_KEY, tries=True),
    Operation("POST", CARD_PATH + "/revoke", post_revoke, Access.ANY_KEY, tries=True),
    Operation("POST", CARD_PATH + "/replace", post_replace, Access.ANY_KEY, tries=True),
)

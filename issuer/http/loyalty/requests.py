"""What every route of loyalty begins and ends with: the program, the member, one operation and its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response

from issuer.http.fields import json_response
from issuer.http.idempotency import REPLAYED, KeyedAct
from issuer.http.loyalty.refusals import refusal_problem
from issuer.http.operations import RequestContext
from issuer.loyalty.member import MemberNotFoundError
from issuer.loyalty.member_store import ProgramMember, find_member
from issuer.loyalty.named_accounts import AccountName, NamedAccount
from issuer.loyalty.named_programs import ProgramName, find_named_program
from issuer.loyalty.operations import Operation
from issuer.loyalty.outcome import Applied, Refusal
from issuer.loyalty.program import Program
from issuer.loyalty.shown import show_balance, show_entry
from issuer.loyalty.work import Actor
from issuer.storage.acts import UNKEPT

PROGRAMS_PATH: Final = "/api/v1/loyalty/programs"
PROGRAM_PATH: Final = PROGRAMS_PATH + "/{program:id}"
MEMBERS_PATH: Final = PROGRAM_PATH + "/members"
MEMBER_PATH: Final = MEMBERS_PATH + "/{member:id}"

Shown = Callable[[Applied], dict[str, Any]]


async def program_of(context: RequestContext) -> Program:
    """Return the program of the path, by its id or name. A bound key sees those of its client alone.

    Raises ProgramNotFoundError, AmbiguousProgramError.
    """
    postgres, given = context.services.stores.postgres, context.request.path_params["program"]
    return await find_named_program(postgres, given, client_id=context.caller.client_id)


async def account_of(context: RequestContext) -> NamedAccount:
    """Return the account of the path, read together with those of other requests.

    Raises ProgramNotFoundError, AmbiguousProgramError; `id` raises MemberNotFoundError.
    """
    path = context.request.path_params
    name = AccountName(ProgramName(path["program"], context.caller.client_id), path["member"])
    return await context.services.accounts.find(name, context.caller.tenant)


async def member_of(context: RequestContext, program: Program, *, erased: bool = False) -> ProgramMember:
    """Return the member of the path, by its id or ref. Raises MemberNotFoundError, unless `erased` also of erased."""
    found = await find_member(context.services.stores.postgres, program, context.request.path_params["member"])
    if found.member.erased_at is not None and not erased:
        raise MemberNotFoundError
    return found


def actor_of(context: RequestContext) -> Actor:
    """Return the caller as the entries of an operation record it."""
    key, idempotency_key = context.caller.key, context.idempotency.key
    return Actor(
        None if key is None else key.id,
        None if idempotency_key is None else hashlib.sha256(idempotency_key.encode()).digest(),
    )


async def carry_out(
    context: RequestContext,
    program: Program,
    account_id: int,
    operation: Operation,
    *,
    status: int = 200,
    more: Shown | None = None,
) -> Response:
    """Carry out an operation on an account and return its answer: the first own entry, and the balance after it.

    `more`: further members of the answer. Raises ProblemError for a refusal.
    """

    async def show(applied: Applied) -> Response:
        return _answer(applied, program, account_id, status, more)

    return await executed(context, program, account_id, operation, show)


async def executed(
    context: RequestContext,
    program: Program,
    account_id: int,
    operation: Operation,
    show: Callable[[Applied], Awaitable[Response]],
) -> Response:
    """Execute an operation; one that is only tried keeps no answer. Raises ProblemError for a refusal."""
    keeps = context.idempotency.key is not None and not context.dry_run
    act = KeyedAct(context.idempotency, show) if keeps else None
    # The executor has one connection for all: requests that share a transaction must not wait for slots.
    await context.end_slot()
    outcome = await context.services.loyalty.execute(
        account_id,
        operation,
        client_id=program.client_id,
        actor=actor_of(context),
        act=act or UNKEPT,
        dry_run=context.dry_run,
    )
    if isinstance(outcome, Refusal):
        raise refusal_problem(outcome, program.unit)
    return await show(outcome) if act is None else act.response


def _answer(applied: Applied, program: Program, account_id: int, status: int, more: Shown | None) -> Response:
    entry = applied.entry
    response = json_response(
        {
            "entry": None if entry is None else show_entry(entry, account_id, program.unit),
            "balance": show_balance(applied.state, applied.program),
            **({} if more is None else more(applied)),
        },
        200 if applied.replayed else status,
    )
    if applied.replayed:
        response.headers[REPLAYED] = "true"
    return response

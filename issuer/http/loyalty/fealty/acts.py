"""What the predecessor's routes and forms do with accounts: find, create, change and delete.

An address without an account raises MemberNotFoundError, one with an account that is to be created MemberExistsError.
"""

from __future__ import annotations

from typing import Any, Final

from issuer.http.loyalty.fealty.account_fields import AccountFields
from issuer.http.loyalty.fealty.accounts import FealtyAccount, find_account
from issuer.http.loyalty.refusals import refusal_problem
from issuer.http.loyalty.requests import actor_of
from issuer.http.operations import RequestContext
from issuer.loyalty.executor import execute_in
from issuer.loyalty.member import MemberNotFoundError
from issuer.loyalty.member_erasure import erase_member
from issuer.loyalty.member_store import change_member, create_member_in
from issuer.loyalty.named_programs import find_named_program
from issuer.loyalty.operations import SetPoints
from issuer.loyalty.outcome import Applied, Refusal
from issuer.loyalty.program import Program, ProgramNotFoundError
from issuer.storage.acts import UNKEPT

REASON: Final = "set by a client of FealTY"


async def fealty_program(context: RequestContext) -> Program:
    """Return the program that the settings name. Raises ProgramNotFoundError, also for a key of another client."""
    given = context.services.settings.fealty_program
    if given is None:
        raise ProgramNotFoundError
    return await find_named_program(context.services.stores.postgres, given, client_id=context.caller.client_id)


async def find(context: RequestContext, fields: AccountFields) -> FealtyAccount:
    return await _found(context, await fealty_program(context), fields.email)


async def create(context: RequestContext, fields: AccountFields) -> FealtyAccount:
    """Create a member with its points, in one transaction: neither is there without the other."""
    program, points = await fealty_program(context), fields.points or 0
    values: dict[str, Any] = {"email": fields.email, "marketing": bool(fields.marketing)}
    async with UNKEPT.transaction(context.services.stores.postgres) as connection:
        created = await create_member_in(connection, program, values, actor=context.caller.actor)
        _check(program, await execute_in(connection, created.account_id, _setting(points), actor=actor_of(context)))
    return FealtyAccount(created, points)


async def change(context: RequestContext, fields: AccountFields) -> FealtyAccount:
    """Change what is given. Points first: they may be refused, and then nothing is changed."""
    program = await fealty_program(context)
    account = await _found(context, program, fields.email)
    if fields.points is not None:
        await _set_points(context, program, account.found.account_id, fields.points)
    if fields.marketing is not None:
        await change_member(
            context.services.stores.postgres,
            program,
            account.found,
            {"marketing": fields.marketing},
            actor=context.caller.actor,
        )
    return await _found(context, program, fields.email)


async def delete(context: RequestContext, fields: AccountFields) -> FealtyAccount:
    """Erase the member and return its account as it was. The entries of the ledger stay, without a person."""
    account = await find(context, fields)
    await erase_member(context.services.stores.postgres, account.found.member, actor=context.caller.actor)
    return account


async def _found(context: RequestContext, program: Program, email: str) -> FealtyAccount:
    account = await find_account(context.services.stores.postgres, program, email)
    if account is None:
        raise MemberNotFoundError
    return account


async def _set_points(context: RequestContext, program: Program, account_id: int, points: int) -> None:
    outcome = await context.services.loyalty.execute(
        account_id, _setting(points), client_id=program.client_id, actor=actor_of(context)
    )
    _check(program, outcome)


def _setting(points: int) -> SetPoints:
    return SetPoints(points, REASON)


def _check(program: Program, outcome: Applied | Refusal) -> None:
    if isinstance(outcome, Refusal):
        raise refusal_problem(outcome, program.unit)

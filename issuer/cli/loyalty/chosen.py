"""The program and the member that a command names, and the refusals that an operator can correct."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import typer

from issuer.cli.options import client_option
from issuer.cli.output import InputError, run

if TYPE_CHECKING:
    from issuer.loyalty.member_store import ProgramMember
    from issuer.loyalty.program import Program
    from issuer.storage.postgres import Pool
    from issuer.storage.stores import Stores

T = TypeVar("T")

PROGRAM: Final[Any] = typer.Argument(..., metavar="PROGRAM", help="Name or id of the program.")
MEMBER: Final[Any] = typer.Argument(..., metavar="MEMBER", help="Id of the member, or the client's own ref.")
CLIENT: Final[Any] = typer.Option(None, help="Client of the program, if several have one of this name.")


async def chosen_program(stores: Stores, given: str, client: str | None) -> Program:
    """Return the program that a command names. Raises InputError."""
    return await named_program(stores.postgres, given, await client_option(stores.postgres, client))


async def named_program(postgres: Pool, given: str, client_id: UUID | None) -> Program:
    """Return the program with this name or id. Raises InputError."""
    from issuer.loyalty.named_programs import AmbiguousProgramError, find_named_program
    from issuer.loyalty.program import ProgramNotFoundError

    try:
        return await find_named_program(postgres, given, client_id=client_id)
    except ProgramNotFoundError as error:
        raise InputError(f"no program has the name or id {given!r}", hint="issuer loyalty programs list") from error
    except AmbiguousProgramError as error:
        ids = "\n".join(f"  {one}" for one in error.ids)
        raise InputError(f"several clients have a program {given!r}; give --client, or the id:\n{ids}") from error


async def chosen_member(stores: Stores, program: Program, given: str) -> ProgramMember:
    """Return the member that a command names. Raises InputError."""
    from issuer.loyalty.member import MemberNotFoundError
    from issuer.loyalty.member_store import find_member

    try:
        return await find_member(stores.postgres, program, given)
    except MemberNotFoundError as error:
        raise InputError(f"the program has no member with the id or ref {given!r}") from error


def run_checked(work: Callable[[Stores], Awaitable[T]]) -> T:
    """Run the work; what an operator can correct is an InputError."""

    async def checked(stores: Stores) -> T:
        from issuer.loyalty.amounts import InvalidAmountError, OtherCurrencyError
        from issuer.loyalty.member import InvalidMemberError, MemberExistsError, MemberNotFoundError
        from issuer.loyalty.program import InvalidProgramError, ProgramEndedError, ProgramExistsError
        from issuer.loyalty.reward import InvalidRewardError, RewardNotFoundError
        from issuer.loyalty.terms import TermsError

        correctable = (
            InvalidAmountError, OtherCurrencyError, InvalidMemberError, MemberExistsError, MemberNotFoundError,
            InvalidProgramError, ProgramEndedError, ProgramExistsError, TermsError, InvalidRewardError,
            RewardNotFoundError,
        )  # fmt: skip
        try:
            return await work(stores)
        except correctable as error:
            raise InputError(str(error)) from error

    return run(checked)

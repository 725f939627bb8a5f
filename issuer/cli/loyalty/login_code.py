"""`issuer loyalty login-code`: the code with which a person signs in where no mail is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.loyalty.chosen import CLIENT, PROGRAM, chosen_program, run_checked
from issuer.cli.options import AS_JSON
from issuer.cli.output import InputError, print_json

if TYPE_CHECKING:
    from issuer.sessions.login_tokens import LoginToken
    from issuer.storage.stores import Stores


def register(app: typer.Typer) -> None:
    app.command("login-code")(login_code)


def login_code(
    program: str = PROGRAM,
    email: str = typer.Argument(..., metavar="EMAIL", help="Address that the person has entered on the page."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Print a code for the page of a program. Read it to the person only once you know who it is."""

    async def work(stores: Stores) -> LoginToken:
        from issuer.access import audit
        from issuer.access.audit import cli_actor
        from issuer.loyalty.member import MemberNotFoundError, fold_email, parse_email
        from issuer.loyalty.member_store import find_member_of_client
        from issuer.sessions.login_tokens import EmailAddress, TokenPurpose, create_login_token
        from issuer.storage.postgres import unavailable_translated

        found = await chosen_program(stores, program, client)
        given = parse_email(email)
        address = EmailAddress(given, fold_email(given))
        try:
            member = await find_member_of_client(stores.postgres, found.client_id, email_folded=address.folded)
            detail = {"member": str(member.id)}
        except MemberNotFoundError:
            if not found.terms.self_join:
                raise InputError("no member has this address", hint="issuer loyalty members create") from None
            detail = {}
        async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
            token = await create_login_token(connection, TokenPurpose.LOGIN, found.id, address, browser=None)
            # Not the address: the audit log outlasts the member.
            subject = f"program:{found.id}"
            await audit.record(
                connection, actor=cli_actor(), action="member.login_code", subject=subject, detail=detail
            )
        return token

    code = run_checked(work).code
    if as_json:
        print_json({"code": code, "minutes": 15})
        return
    typer.echo(f"{code[:3]} {code[3:]}")
    typer.echo("valid for 15 minutes, once, on the page on which this address was entered")

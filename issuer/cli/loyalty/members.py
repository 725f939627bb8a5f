"""`issuer loyalty members`: create, list, show, change and erase members."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from issuer.cli.export import add_export
from issuer.cli.loyalty.chosen import CLIENT, MEMBER, PROGRAM, chosen_member, chosen_program, run_checked
from issuer.cli.options import AS_JSON
from issuer.cli.output import command_settings, print_fields, print_json, print_list
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.loyalty.account import AccountState
    from issuer.loyalty.member import Member
    from issuer.loyalty.member_store import MemberWithBalance, ProgramMember
    from issuer.loyalty.program import Program
    from issuer.storage.stores import Stores

commands = typer.Typer(help="Create, list, show, change and erase members.", no_args_is_help=True)

REF = typer.Option(None, help="Your own id of the member.")
EMAIL = typer.Option(None, help="E-mail address; '': none.")
PHONE = typer.Option(None, help="Phone number with the code of its country; '': none.")
NAME = typer.Option(None, help="Name of the person; '': none.")
LOCALE = typer.Option(None, help="Language, such as en or de-AT; '': none.")
MARKETING = typer.Option(None, "--marketing/--no-marketing", help="Whether the member agrees to marketing.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="members")


@commands.command()
def create(
    program: str = PROGRAM,
    client: str | None = CLIENT,
    ref: str | None = REF,
    email: str | None = EMAIL,
    phone: str | None = PHONE,
    name: str | None = NAME,
    locale: str | None = LOCALE,
    marketing: bool | None = MARKETING,
    as_json: bool = AS_JSON,
) -> None:
    """Create a member, with an account in the program."""
    values = _given(ref=ref, email=email, phone=phone, name=name, locale=locale, marketing=marketing)

    async def work(stores: Stores, found: Program) -> MemberWithBalance:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.member_store import create_member

        return await create_member(stores.postgres, found, values, actor=cli_actor())

    _show_one(program, client, work, as_json)


@commands.command("list")
def list_command(
    program: str = PROGRAM,
    client: str | None = CLIENT,
    search: str | None = typer.Option(None, "--search", "-q", help="How words of name, address or ref begin."),
    as_json: bool = AS_JSON,
) -> None:
    """List the members of a program with their points, in the order in which they joined."""

    async def work(stores: Stores) -> None:
        from issuer.loyalty.balances import read_balances
        from issuer.loyalty.member_search import MemberQuery, list_members

        found = await chosen_program(stores, program, client)
        query = MemberQuery.of({} if search is None else {"q": search})

        async def page(cursor: str | None) -> Page[ProgramMember]:
            return await list_members(stores.postgres, found, query, limit=MAX_LIMIT, cursor=cursor)

        async def with_balances() -> AsyncIterator[list[tuple[ProgramMember, AccountState]]]:
            async for members in all_items(page):
                states = await read_balances(stores.postgres, found, [one.account_id for one in members])
                yield [(one, states[one.account_id]) for one in members]

        await print_list(
            with_balances(),
            as_json=as_json,
            to_json=lambda pair: _json(*pair, found),
            headers=("name", "ref", "email", "available", "pending", "debt", "id"),
            row=lambda pair: (
                pair[0].member.name or "-", pair[0].member.ref or "-", pair[0].member.email or "-",
                *(_figure(points, found) for points in (pair[1].available, pair[1].pending, pair[1].debt)),
                str(pair[0].member.id),
            ),
            empty="no members: see `issuer loyalty members create --help`",
        )  # fmt: skip

    run_checked(work)


@commands.command()
def show(program: str = PROGRAM, member: str = MEMBER, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Show a member with the balance of its account."""

    async def work(stores: Stores, found: Program) -> MemberWithBalance:
        from issuer.loyalty.balances import read_balance
        from issuer.loyalty.member_store import MemberWithBalance

        one = await chosen_member(stores, found, member)
        balance = await read_balance(stores.postgres, found, one.account_id)
        return MemberWithBalance.of(one, balance)

    _show_one(program, client, work, as_json)


@commands.command()
def change(
    program: str = PROGRAM,
    member: str = MEMBER,
    client: str | None = CLIENT,
    ref: str | None = REF,
    email: str | None = EMAIL,
    phone: str | None = PHONE,
    name: str | None = NAME,
    locale: str | None = LOCALE,
    marketing: bool | None = MARKETING,
    as_json: bool = AS_JSON,
) -> None:
    """Change a member. What is not given stays."""
    values = _given(ref=ref, email=email, phone=phone, name=name, locale=locale, marketing=marketing)

    async def work(stores: Stores, found: Program) -> MemberWithBalance:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.member_store import change_member

        one = await chosen_member(stores, found, member)
        return await change_member(stores.postgres, found, one, values, actor=cli_actor())

    _show_one(program, client, work, as_json)


@commands.command()
def erase(
    program: str = PROGRAM,
    member: str = MEMBER,
    client: str | None = CLIENT,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    as_json: bool = AS_JSON,
) -> None:
    """Erase the personal data of a member in all programs of the client. Accounts and their entries stay."""
    command_settings()
    if not yes:
        typer.confirm("Erase the member? Nothing brings its data back.", abort=True, err=True)

    async def work(stores: Stores) -> Member:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.member_erasure import erase_member

        found = await chosen_program(stores, program, client)
        one = await chosen_member(stores, found, member)
        return await erase_member(stores.postgres, one.member, actor=cli_actor())

    erased = run_checked(work)
    if as_json:
        print_json(erased.to_json())
    else:
        typer.echo(f"member {erased.id} is erased")


@commands.command("export-person")
def export_person_command(
    program: str = PROGRAM, member: str = MEMBER, client: str | None = CLIENT, as_json: bool = AS_JSON
) -> None:
    """Print everything there is about a member with --json, without it how much, in all programs of the client."""

    async def work(stores: Stores) -> dict[str, Any]:
        from issuer.loyalty.traces import export_person

        found = await chosen_program(stores, program, client)
        one = await chosen_member(stores, found, member)
        async with (
            stores.postgres.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await export_person(connection, one.member)

    person = run_checked(work)
    if as_json:
        print_json(person)
    else:
        print_fields(*((name, f"{len(rows):,}") for name, rows in person.items()))


add_export(commands, "members")


def _given(**options: str | bool | None) -> Mapping[str, Any]:
    """Return the options that are given; an empty text removes a value."""
    return {name: value if value != "" else None for name, value in options.items() if value is not None}


def _json(found: ProgramMember, state: AccountState, program: Program) -> dict[str, Any]:
    from issuer.loyalty.card_number import show_number
    from issuer.loyalty.shown import show_balance

    shown = {"account_id": found.account_id, "cards": [show_number(number) for number in found.cards]}
    return {**found.member.to_json(), **shown, **show_balance(state, program)}


def _figure(points: int, program: Program) -> str | int:
    from issuer.loyalty.amounts import show_points

    return show_points(points, program.unit)


def _show_one(
    program: str, client: str | None, work: Callable[[Stores, Program], Awaitable[MemberWithBalance]], as_json: bool
) -> None:
    async def with_program(stores: Stores) -> tuple[Program, MemberWithBalance]:
        found = await chosen_program(stores, program, client)
        return found, await work(stores, found)

    found, one = run_checked(with_program)
    if as_json:
        print_json(_json(one, one.balance, found))
        return
    member, balance = one.member, one.balance
    print_fields(
        ("member", str(member.id)),
        ("erased", None if member.erased_at is None else f"{member.erased_at:%Y-%m-%d %H:%MZ}"),
        ("ref", member.ref),
        ("name", member.name),
        ("email", member.email),
        ("phone", member.phone),
        ("locale", member.locale),
        ("marketing", "yes" if member.marketing else "no"),
        ("available", str(_figure(balance.available, found))),
        ("held", str(_figure(balance.held, found))),
        ("pending", str(_figure(balance.pending, found))),
        ("debt", str(_figure(balance.debt, found))),
        ("tier", found.terms.tier(balance.lifetime)),
    )

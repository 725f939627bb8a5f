"""`issuer loyalty cards`: issue, list, show, assign, revoke, replace and print cards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from issuer.cli.loyalty.chosen import CLIENT, MEMBER, PROGRAM, chosen_member, chosen_program, run_checked
from issuer.cli.options import AS_JSON
from issuer.cli.output import InputError, print_fields, print_json, print_list
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.loyalty.cards import Card
    from issuer.loyalty.program import Program
    from issuer.storage.stores import Stores

T = TypeVar("T")
NUMBER: Final[Any] = typer.Argument(..., metavar="NUMBER", help="Number of the card, with or without hyphens.")

commands = typer.Typer(help="Issue, list, show, assign, revoke, replace and print cards.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="cards")


@commands.command()
def issue(
    program: str = PROGRAM,
    client: str | None = CLIENT,
    count: int = typer.Option(1, min=1, max=1_000, help="How many cards."),
    member: str | None = typer.Option(None, help="The member whose cards they are; default: blank, or gift cards."),
    amount: str | None = typer.Option(None, help="What each gift card is worth, such as 25.00."),
    as_json: bool = AS_JSON,
) -> None:
    """Issue cards, and print the id of their run, with which `print` prints them."""

    async def work(stores: Stores, found: Program) -> list[Card]:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.amounts import parse_points
        from issuer.loyalty.cards import issue_cards
        from issuer.loyalty.gift_accounts import FirstValue, ValueRefusedError
        from issuer.loyalty.terms import POINTS
        from issuer.loyalty.work import NO_ACTOR

        if amount is not None and (member is not None or found.unit == POINTS):
            raise InputError("--amount is for gift cards: of no member, in a program whose unit is a currency")
        value = None if amount is None else FirstValue(parse_points(amount, found.unit, "amount"), NO_ACTOR)
        account_id = None if member is None else (await chosen_member(stores, found, member)).account_id
        try:
            return list(
                await issue_cards(stores.postgres, found, count, account_id=account_id, value=value, actor=cli_actor())
            )
        except ValueRefusedError as error:
            raise InputError(f"the terms of the program refuse the amount: {error}") from error

    cards = _run(program, client, work)
    if as_json:
        print_json({"run_id": str(cards[0].run_id), "items": [card.to_json() for card in cards]})
        return
    for card in cards:
        typer.echo(card.to_json()["number"])
    typer.echo(f"run {cards[0].run_id}", err=True)


@commands.command("list")
def list_command(program: str = PROGRAM, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """List the cards of a program in the order of issue."""

    async def work(stores: Stores, found: Program) -> None:
        from issuer.loyalty.cards import Card, list_cards

        async def page(cursor: str | None) -> Page[Card]:
            return await list_cards(stores.postgres, found, limit=MAX_LIMIT, cursor=cursor)

        columns = ("number", "state", "member_id", "run_id", "issued_at")
        await print_list(
            all_items(page), as_json=as_json, to_json=Card.to_json, headers=columns,
            row=lambda card: tuple(str(card.to_json()[name] or "-") for name in columns),
            empty="no cards: see `issuer loyalty cards issue --help`",
        )  # fmt: skip

    _run(program, client, work)


@commands.command()
def assign(
    program: str = PROGRAM,
    number: str = NUMBER,
    member: str = MEMBER,
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Assign a blank card to a member."""

    async def work(stores: Stores, found: Program) -> Card:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.cards import assign_card

        account_id = (await chosen_member(stores, found, member)).account_id
        return await assign_card(stores.postgres, found, number, account_id, actor=cli_actor())

    _show(_run(program, client, work), as_json)


@commands.command()
def revoke(program: str = PROGRAM, number: str = NUMBER, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Revoke a card for good. What its account has stays there."""

    async def work(stores: Stores, found: Program) -> Card:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.cards import revoke_card

        return await revoke_card(stores.postgres, found, number, actor=cli_actor())

    _show(_run(program, client, work), as_json)


@commands.command()
def replace(program: str = PROGRAM, number: str = NUMBER, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Revoke a card and issue another one of the same account."""

    async def work(stores: Stores, found: Program) -> Card:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.cards import replace_card

        return await replace_card(stores.postgres, found, number, actor=cli_actor())

    _show(_run(program, client, work), as_json)


@commands.command("print")
def print_command(
    program: str = PROGRAM,
    run_id: str = typer.Argument(..., metavar="RUN", help="Id of the run that issued the cards."),
    file: Path = typer.Argument(..., help="PDF to write."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Print the cards of a run that are not revoked as a PDF: A4 sheets of ten."""

    async def work(stores: Stores, found: Program) -> tuple[int, bytes]:
        from issuer.ids import parse_uuid
        from issuer.loyalty.card_printing import CardPrintingError, ExtraMissingError, print_cards
        from issuer.loyalty.card_sheets import sheet_of_run
        from issuer.loyalty.cards import CardNotFoundError

        run = parse_uuid(run_id)
        if run is None:
            raise InputError("RUN must be a UUID, as `issuer loyalty cards issue` prints it")
        try:
            sheet = await sheet_of_run(stores.postgres, found, run, stores.settings.card_font)
            return len(sheet.numbers), await print_cards(sheet)
        except CardNotFoundError as error:
            raise InputError("the program has no cards of this run that are not revoked") from error
        except (CardPrintingError, ExtraMissingError) as error:
            raise InputError(str(error)) from error

    count, content = _run(program, client, work)
    try:
        file.write_bytes(content)
    except OSError as error:
        typer.echo(f"error: {file} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        print_json({"cards": count, "file": str(file)})
    else:
        typer.echo(f"{count:,} cards are in {file}")


def _run(program: str, client: str | None, work: Callable[[Stores, Program], Awaitable[T]]) -> T:
    async def with_program(stores: Stores) -> T:
        from issuer.loyalty.cards import CardBlankError, CardNotFoundError, CardRevokedError, CardTakenError

        found = await chosen_program(stores, program, client)
        try:
            return await work(stores, found)
        except (CardBlankError, CardNotFoundError, CardRevokedError, CardTakenError) as error:
            raise InputError(str(error)) from error

    return run_checked(with_program)


def _show(card: Card, as_json: bool) -> None:
    shown = card.to_json()
    if as_json:
        print_json(shown)
    else:
        print_fields(*((name.removesuffix("_id"), str(value or "-")) for name, value in shown.items()))

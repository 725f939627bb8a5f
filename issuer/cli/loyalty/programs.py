"""`issuer loyalty programs`: create, list, show and change programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import typer

from issuer.cli.export import add_export
from issuer.cli.loyalty.chosen import CLIENT, PROGRAM, chosen_program, run_checked
from issuer.cli.options import AS_JSON, client_option, default_client_option, instant_option
from issuer.cli.output import InputError, print_fields, print_json, print_list, run
from issuer.cli.tables import print_table
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.loyalty.program import Program
    from issuer.storage.stores import Stores

commands = typer.Typer(help="Create, list, show and change programs.", no_args_is_help=True)

TERMS = typer.Option(None, help='Terms as JSON, such as {"earn":{"points":1,"per":"1.00","currency":"EUR"}}.')
TIMEZONE = typer.Option(None, help="Time zone in which days, months and years end, such as Europe/London.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="programs")


@commands.command()
def create(
    name: str = typer.Option(..., help="Name of the program."),
    client: str | None = typer.Option(None, help="Client that owns it; default: ISSUER_DEFAULT_CLIENT."),
    unit: str = typer.Option("points", help="points, or a currency: stored value."),
    timezone: str = typer.Option("UTC", help="Time zone in which days, months and years end, such as Europe/London."),
    terms: str | None = TERMS,
    as_json: bool = AS_JSON,
) -> None:
    """Create a program."""

    async def work(stores: Stores) -> Program:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.program import parse_unit
        from issuer.loyalty.program_store import create_program
        from issuer.loyalty.terms import parse_terms

        client_id = await client_option(stores.postgres, client) or await default_client_option(stores)
        if client_id is None:
            raise InputError("give --client, or set ISSUER_DEFAULT_CLIENT")
        parsed = parse_unit(unit)
        return await create_program(
            stores.postgres, client_id, name, parse_terms(_object(terms) or {}, parsed), unit=parsed,
            timezone=timezone, actor=cli_actor(),
        )  # fmt: skip

    _show(run_checked(work), as_json)


@commands.command("list")
def list_command(
    client: str | None = typer.Option(None, help="Only programs of this client."), as_json: bool = AS_JSON
) -> None:
    """List the programs, oldest first."""

    async def work(stores: Stores) -> None:
        from issuer.clients.registry import client_names
        from issuer.loyalty.program_store import list_programs

        client_id = await client_option(stores.postgres, client)

        async def page(cursor: str | None) -> Page[Program]:
            return await list_programs(stores.postgres, client_id=client_id, limit=MAX_LIMIT, cursor=cursor)

        async def with_names() -> AsyncIterator[list[tuple[Program, str]]]:
            async for found in all_items(page):
                names = await client_names(stores.postgres, [program.client_id for program in found])
                yield [(program, names.get(program.client_id, str(program.client_id))) for program in found]

        await print_list(
            with_names(),
            as_json=as_json,
            to_json=lambda pair: pair[0].to_json(),
            headers=("name", "unit", "state", "terms", "timezone", "client", "id"),
            row=lambda pair: (
                pair[0].name, pair[0].unit, str(pair[0].state), pair[0].terms_number, pair[0].timezone, pair[1],
                str(pair[0].id),
            ),
            empty="no programs: see `issuer loyalty programs create --help`",
        )  # fmt: skip

    run(work)


@commands.command()
def show(program: str = PROGRAM, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Show a program and its terms."""
    _show(run(lambda stores: chosen_program(stores, program, client)), as_json)


@commands.command()
def change(
    program: str = PROGRAM,
    client: str | None = CLIENT,
    name: str | None = typer.Option(None, help="New name."),
    timezone: str | None = TIMEZONE,
    state: str | None = typer.Option(None, help="active, paused, or ended, which is final."),
    terms: str | None = typer.Option(None, help="Fields of the terms as JSON; what is absent stays as it is."),
    as_json: bool = AS_JSON,
) -> None:
    """Change a program. Other terms are a new version; points that were granted keep their expiry."""

    async def work(stores: Stores) -> Program:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.program import ProgramState
        from issuer.loyalty.program_store import change_program
        from issuer.loyalty.terms import parse_terms

        found = await chosen_program(stores, program, client)
        if state is not None and state not in [*ProgramState]:
            raise InputError(f"--state must be one of {', '.join(ProgramState)}")
        given = _object(terms)
        return await change_program(
            stores.postgres,
            found,
            name=name,
            timezone=timezone,
            state=None if state is None else ProgramState(state),
            terms=None if given is None else parse_terms({**found.terms.to_json(), **given}, found.unit),
            actor=cli_actor(),
        )

    _show(run_checked(work), as_json)


@commands.command()
def stats(
    program: str = PROGRAM,
    client: str | None = CLIENT,
    from_: str | None = typer.Option(None, "--from", help="Start of the period; default: 30 days before its end."),
    to: str | None = typer.Option(None, "--to", help="End of the period; default: now."),
    as_json: bool = AS_JSON,
) -> None:
    """Show points by day, what is outstanding by month of expiry, debts, and the rewards that are taken most."""
    start, end = instant_option(from_, "--from"), instant_option(to, "--to")

    async def work(stores: Stores) -> dict[str, Any]:
        from issuer.loyalty.stats import InvalidPeriodError, Period, read_stats

        found = await chosen_program(stores, program, client)
        try:
            return await read_stats(stores.postgres, found, Period.of(start, end))
        except InvalidPeriodError as error:
            raise InputError(str(error)) from error

    figures = run(work)
    if as_json:
        print_json(figures)
        return
    columns = ("earned", "spent", "expired", "taken_back")
    days = [(day["day"], *(day[name] for name in columns)) for day in figures["days"]]
    print_table(("day", *columns), days, empty="no entries in this period")
    outstanding, debts = figures["outstanding"], figures["debts"]
    print_fields(
        ("members", str(figures["members"])),
        ("redemption rate", figures["redemption_rate"]),
        *((name, str(outstanding[name])) for name in ("available", "held", "pending")),
        *((f"expiring {row['month'] or 'never'}", str(row["points"])) for row in outstanding["by_month"]),
        ("debts", f"{debts['points']} of {debts['accounts']} accounts"),
        *((f"reward {row['name']}", f"{row['purchases']} × for {row['points']}") for row in figures["top_rewards"]),
    )


add_export(commands, "points")


def _object(text: str | None) -> dict[str, Any] | None:
    import orjson

    try:
        value = None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"--terms: {error}") from error
    if value is not None and not isinstance(value, dict):
        raise InputError("--terms must be a JSON object")
    return value


def _show(program: Program, as_json: bool) -> None:
    if as_json:
        print_json(program.to_json())
        return
    import orjson

    print_fields(
        ("program", program.name),
        ("id", str(program.id)),
        ("client", str(program.client_id)),
        ("unit", program.unit),
        ("state", str(program.state)),
        ("timezone", program.timezone),
        (f"terms {program.terms_number}", orjson.dumps(program.terms.to_json()).decode()),
    )

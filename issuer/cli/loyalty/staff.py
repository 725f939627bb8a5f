"""`issuer loyalty staff`: who works at the tills of a program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from issuer.cli.loyalty.chosen import CLIENT, PROGRAM, named_program
from issuer.cli.options import AS_JSON, client_option
from issuer.cli.output import InputError, print_json, print_list, run_with_postgres
from issuer.names import visible

if TYPE_CHECKING:
    from issuer.loyalty.program import Program
    from issuer.loyalty.staff import Staff
    from issuer.loyalty.till import StaffDay
    from issuer.storage.postgres import Pool

Result = TypeVar("Result")

commands = typer.Typer(help="Add, list and disable staff at the tills of a program.", no_args_is_help=True)

NAME: Final[Any] = typer.Argument(..., metavar="NAME", help="Name of the member of staff.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="staff")


@commands.command()
def create(
    program: str = PROGRAM,
    name: str = NAME,
    max_points: int | None = typer.Option(None, min=1, help="The largest entry that it may make; default: no limit."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Add a member of staff and print its PIN, which is shown only this once."""
    from issuer.access.audit import cli_actor
    from issuer.loyalty.staff import create_staff

    async def work(postgres: Pool, found: Program) -> tuple[Staff, str]:
        return await create_staff(postgres, found.id, name, max_points=max_points, actor=cli_actor())

    _show_pin(*_run(program, client, work), as_json)


@commands.command("new-pin")
def new_pin(program: str = PROGRAM, name: str = NAME, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Give a member of staff another PIN. This also ends a lock after wrong PINs."""
    from issuer.access.audit import cli_actor
    from issuer.loyalty.staff import renew_pin

    async def work(postgres: Pool, found: Program) -> tuple[Staff, str]:
        return await renew_pin(postgres, found.id, name, actor=cli_actor())

    _show_pin(*_run(program, client, work), as_json)


@commands.command()
def disable(program: str = PROGRAM, name: str = NAME, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Refuse a member of staff from the next request on. Its entries stay, and its name is free again."""
    from issuer.access.audit import cli_actor
    from issuer.loyalty.staff import disable_staff

    async def work(postgres: Pool, found: Program) -> Staff:
        return await disable_staff(postgres, found.id, name, actor=cli_actor())

    staff = _run(program, client, work)
    if as_json:
        print_json(staff.to_json())
    else:
        typer.echo(f"{visible(staff.name)} is disabled")


@commands.command("list")
def list_command(program: str = PROGRAM, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """List the staff of a program, also those that are disabled."""
    from issuer.loyalty.staff import list_staff

    async def work(postgres: Pool, found: Program) -> None:
        async def chunks() -> AsyncIterator[list[Staff]]:
            yield await list_staff(postgres, found.id, disabled=True)

        await print_list(
            chunks(),
            as_json=as_json,
            to_json=lambda staff: staff.to_json(),
            headers=("name", "state", "max points"),
            row=lambda staff: (
                staff.name,
                "active" if staff.disabled_at is None else "disabled",
                str(staff.max_points or "-"),
            ),
            empty="no staff yet: see `issuer loyalty staff create --help`",
        )

    _run(program, client, work)


@commands.command()
def day(
    program: str = PROGRAM,
    on: str | None = typer.Option(None, "--date", help="Day in the program's time zone; default: today."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Show what each member of staff booked on one day."""
    from datetime import datetime

    from issuer.loyalty.till import read_staff_day

    async def work(postgres: Pool, found: Program) -> None:
        try:
            chosen = datetime.now(found.zone).date() if on is None else date.fromisoformat(on)
        except ValueError as error:
            raise InputError("--date must be a day such as 2026-06-01") from error

        async def chunks() -> AsyncIterator[list[StaffDay]]:
            yield list(await read_staff_day(postgres, found, chosen))

        await print_list(
            chunks(),
            as_json=as_json,
            to_json=lambda line: line.to_json(),
            headers=("name", "entry", "number", "sum"),
            row=lambda line: (line.name, str(line.op), str(line.entries), str(line.points)),
            empty=f"no entries of staff on {chosen}",
        )

    _run(program, client, work)


def _run(program: str, client: str | None, work: Callable[[Pool, Program], Awaitable[Result]]) -> Result:
    """Run the work with the program; a refusal that the operator can correct is an InputError."""
    from issuer.loyalty.staff import InvalidStaffError, StaffExistsError, StaffNotFoundError

    async def checked(postgres: Pool) -> Result:
        found = await named_program(postgres, program, await client_option(postgres, client))
        try:
            return await work(postgres, found)
        except (InvalidStaffError, StaffExistsError, StaffNotFoundError) as error:
            raise InputError(str(error)) from error

    return run_with_postgres(checked)


def _show_pin(staff: Staff, pin: str, as_json: bool) -> None:
    if as_json:
        print_json(staff.to_json() | {"pin": pin})
        return
    typer.echo(f"{visible(staff.name)} has this PIN, which is not shown again:", err=True)
    typer.echo(pin)

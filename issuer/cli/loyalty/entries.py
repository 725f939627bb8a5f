"""`issuer loyalty entries`: the ledger of a member's points, and what an operator does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from issuer.cli.loyalty.chosen import CLIENT, MEMBER, PROGRAM, chosen_member, chosen_program, run_checked
from issuer.cli.options import AS_JSON
from issuer.cli.output import CommandError, print_json, print_list, run
from issuer.cli.tables import shown_time
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from collections.abc import Callable

    from issuer.loyalty.history import AccountEntry
    from issuer.loyalty.operations import Operation
    from issuer.loyalty.outcome import Applied
    from issuer.loyalty.program import Program
    from issuer.storage.stores import Stores

commands = typer.Typer(
    help="List the entries of a member's account, and earn, spend and adjust points.", no_args_is_help=True
)

POINTS = typer.Argument(..., metavar="POINTS", help="Points; an amount where the unit of the program is a currency.")
REASON = typer.Option(None, help="Why, for the entry. No personal data.")
DRY_RUN = typer.Option(False, "--dry-run", help="Check only; nothing is changed.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="entries")


@commands.command("list")
def list_command(
    program: str = PROGRAM, member: str = MEMBER, client: str | None = CLIENT, as_json: bool = AS_JSON
) -> None:
    """List the entries of a member, newest first."""

    async def work(stores: Stores) -> None:
        from issuer.loyalty.amounts import show_points
        from issuer.loyalty.effects import EFFECTS
        from issuer.loyalty.history import list_member_entries
        from issuer.loyalty.shown import show_entry

        found = await chosen_program(stores, program, client)
        one = await chosen_member(stores, found, member)

        async def page(cursor: str | None) -> Page[AccountEntry]:
            return await list_member_entries(stores.postgres, found, one, limit=MAX_LIMIT, cursor=cursor)

        def row(item: AccountEntry) -> tuple[str | int, ...]:
            entry = item.entry
            order = "-" if entry.order is None else ":".join(entry.order)
            figures = (EFFECTS[entry.op].balance * entry.points, entry.available, entry.pending, entry.debt)
            shown = [show_points(figure, found.unit) for figure in figures]
            return shown_time(entry.occurred_at), str(entry.op), *shown, order, entry.reason or "-"

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda item: show_entry(item.entry, item.account_id, found.unit),
            headers=("at", "operation", "change", "available", "pending", "debt", "order", "reason"),
            row=row,
            empty="no entries",
        )

    run(work)


@commands.command()
def earn(
    program: str = PROGRAM,
    member: str = MEMBER,
    points: str = POINTS,
    client: str | None = CLIENT,
    reason: str | None = REASON,
    dry_run: bool = DRY_RUN,
    as_json: bool = AS_JSON,
) -> None:
    """Add points that a member has earned, under the terms of the program."""

    def operation(found: Program) -> Operation:
        from issuer.loyalty.amounts import parse_points
        from issuer.loyalty.operations import Earn

        return Earn(parse_points(points, found.unit), reason=reason)

    _carry_out(program, member, client, operation, dry_run, as_json)


@commands.command()
def spend(
    program: str = PROGRAM,
    member: str = MEMBER,
    points: str = POINTS,
    client: str | None = CLIENT,
    reason: str | None = REASON,
    dry_run: bool = DRY_RUN,
    as_json: bool = AS_JSON,
) -> None:
    """Take points, all or none."""

    def operation(found: Program) -> Operation:
        from issuer.loyalty.amounts import parse_points
        from issuer.loyalty.operations import Spend

        return Spend(parse_points(points, found.unit), reason)

    _carry_out(program, member, client, operation, dry_run, as_json)


@commands.command(context_settings={"ignore_unknown_options": True})
def adjust(
    program: str = PROGRAM,
    member: str = MEMBER,
    points: str = typer.Argument(..., metavar="POINTS", help="Points to add; with a minus in front: to take."),
    client: str | None = CLIENT,
    reason: str = typer.Option(..., help="Why, for the entry. No personal data."),
    allow_debt: bool = typer.Option(False, "--allow-debt", help="What is not available becomes a debt."),
    dry_run: bool = DRY_RUN,
    as_json: bool = AS_JSON,
) -> None:
    """Correct a balance by a difference, with the reason."""

    def operation(found: Program) -> Operation:
        from issuer.loyalty.amounts import parse_change
        from issuer.loyalty.operations import Adjust

        return Adjust(parse_change(points, found.unit), reason, allow_debt=allow_debt)

    _carry_out(program, member, client, operation, dry_run, as_json)


def _carry_out(
    program: str,
    member: str,
    client: str | None,
    operation: Callable[[Program], Operation],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Carry out an operation on the account of a member, and print the entry with the balance after it."""

    async def work(stores: Stores) -> tuple[Program, int, Applied]:
        from issuer.loyalty.executor import LoyaltyExecutor
        from issuer.loyalty.outcome import Refusal

        found = await chosen_program(stores, program, client)
        one = await chosen_member(stores, found, member)
        executor = LoyaltyExecutor(stores.postgres, timeout_s=stores.settings.postgres_timeout_s)
        try:
            outcome = await executor.execute(
                one.account_id, operation(found), client_id=found.client_id, dry_run=dry_run
            )
        finally:
            await executor.aclose()
        if isinstance(outcome, Refusal):
            raise CommandError(_refusal(outcome, found))
        return found, one.account_id, outcome

    found, account_id, applied = run_checked(work)
    _print(found, account_id, applied, dry_run, as_json)


def _refusal(refusal: Any, program: Program) -> str:
    from issuer.loyalty.amounts import show_points
    from issuer.loyalty.outcome import RefusalCode

    text = str(refusal.code).replace("_", " ")
    if refusal.code is RefusalCode.INSUFFICIENT_POINTS:
        available, debt = (show_points(figure, program.unit) for figure in (refusal.available, refusal.debt))
        return f"{text}: {available} available, debt {debt}"
    return text


def _print(program: Program, account_id: int, applied: Applied, dry_run: bool, as_json: bool) -> None:
    from issuer.loyalty.shown import show_balance, show_entry

    balance = show_balance(applied.state, applied.program)
    entry = None if applied.entry is None else show_entry(applied.entry, account_id, program.unit)
    if as_json:
        print_json({"entry": entry, "balance": balance})
        return
    done = "would be" if dry_run else "is"
    change = "nothing" if entry is None else f"entry {entry['id']}: {entry['op']} {entry['points']}"
    typer.echo(f"{change}; available {done} {balance['available']}, debt {balance['debt']}")

"""`issuer dead-letters`: list and retry events that could not be recorded. Needs Postgres only."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import FAILED, print_json, run_with_postgres
from issuer.cli.tables import print_table, shown_time

if TYPE_CHECKING:
    from issuer.storage.postgres import Pool

commands = typer.Typer(help="List and retry events that could not be recorded in the ledger.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="dead-letters")


@commands.command("list")
def list_command(
    after: int = typer.Option(0, min=0, max=2**63 - 1, help="Only dead letters with a larger id."),
    limit: int = typer.Option(100, min=1, max=10_000, help="Maximum number of dead letters."),
    resolved: bool = typer.Option(False, "--resolved", help="Include resolved dead letters."),
    as_json: bool = AS_JSON,
) -> None:
    """List dead letters, oldest first."""
    from issuer.ledger.dead_letters import StoredDeadLetter, list_dead_letters

    async def work(postgres: Pool) -> list[StoredDeadLetter]:
        return await list_dead_letters(postgres, after_id=after, limit=limit, resolved=resolved)

    letters = run_with_postgres(work)
    if as_json:
        print_json([asdict(letter) for letter in letters])
        return
    rows = [
        (
            str(letter.id),
            shown_time(letter.created_at),
            "resolved" if letter.resolved_at else "waiting",
            "whole event" if letter.seq is None else f"pool {letter.pool_id} seq {letter.seq}",
            letter.reason,
        )
        for letter in letters
    ]
    print_table(("id", "at", "state", "subject", "reason"), rows, empty="no dead letters")


@commands.command()
def retry(
    letter: int | None = typer.Argument(None, metavar="[ID]", min=1, max=2**63 - 1, help="Only this dead letter."),
    as_json: bool = AS_JSON,
) -> None:
    """Try again to record waiting dead letters. Exit code 1 if any of them could not be recorded."""
    from issuer.access.audit import cli_actor
    from issuer.ledger.dead_letters import RetryResult, retry_dead_letters

    async def work(postgres: Pool) -> RetryResult:
        return await retry_dead_letters(postgres, only_id=letter, actor=cli_actor())

    retried = run_with_postgres(work)
    if as_json:
        print_json(asdict(retried))
    else:
        for number, reason in retried.reasons.items():
            typer.echo(f"{number:>6}  {reason}")
        typer.echo(f"{retried.resolved} resolved, {len(retried.reasons)} not resolved")
    if retried.reasons:
        raise typer.Exit(FAILED)

"""`issuer maintenance`: list the rows that maintenance tasks could not process, and have them tried again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import print_json, run_with_postgres
from issuer.cli.tables import print_table, shown_time

if TYPE_CHECKING:
    from issuer.storage.failed_rows import FailedRow
    from issuer.storage.postgres import Pool

commands = typer.Typer(help="List and retry rows that the worker could not process.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="maintenance")


@commands.command("list")
def list_command(
    limit: int = typer.Option(100, min=1, max=10_000, help="Maximum number of rows."), as_json: bool = AS_JSON
) -> None:
    """List failed rows, those that failed first at the top. The worker skips each until its next attempt."""
    from issuer.storage.failed_rows import list_failed_rows

    async def work(postgres: Pool) -> list[FailedRow]:
        return await list_failed_rows(postgres, limit=limit)

    rows = run_with_postgres(work)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    shown = [
        (one.task, one.row or "(the task itself)", one.failures, shown_time(one.first_at), shown_time(one.retry_at),
         one.error)
        for one in rows
    ]  # fmt: skip
    print_table(("task", "row", "failures", "since", "next attempt", "error"), shown, empty="no failed rows")


@commands.command()
def retry(
    task: str | None = typer.Option(None, help="Only rows of this task."),
    row: str | None = typer.Option(None, help="Only the row with this id."),
    as_json: bool = AS_JSON,
) -> None:
    """Have failed rows tried again now, for example once their cause is repaired."""
    from issuer.storage.failed_rows import retry_failed_rows

    async def work(postgres: Pool) -> int:
        return await retry_failed_rows(postgres, task=task, row=row)

    count = run_with_postgres(work)
    if as_json:
        print_json({"rows": count})
    else:
        typer.echo(f"{count} rows are tried again now")

"""`issuer import`: take over what a predecessor has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import CommandError, print_json, run
from issuer.cli.progress import progress_bars
from issuer.names import visible

if TYPE_CHECKING:
    from issuer.importing.report import ImportReport
    from issuer.storage.stores import Stores

commands = typer.Typer(help="Take over the batches and codes of another service.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="import")


@commands.callback()
def callback() -> None:
    pass


@commands.command()
def ango(
    dsn: str = typer.Argument(..., metavar="DSN", help="Database of Ango, postgresql://user:password@host/database."),
    time_zone: str = typer.Option("UTC", help="The zone of times that have none, such as Europe/Paris."),
    as_json: bool = AS_JSON,
) -> None:
    """Import batches, codes and their customers from the database of Ango, which is only read.

    Used codes are in the ledger from then on: they are never issued, and limits count them. A repeated run adds what is
    new and completes an interrupted one. Stop Ango before the last run. Exit codes: 0 imported, even if some rows were
    not; 1 failed.
    """

    async def work(stores: Stores) -> ImportReport:
        from issuer.access.audit import cli_actor
        from issuer.importing.ango import import_ango
        from issuer.importing.report import ImportRefusedError

        try:
            with progress_bars(None, silent=as_json) as progress:
                return await import_ango(stores, dsn, actor=cli_actor(), time_zone=time_zone, progress=progress)
        except ImportRefusedError as error:
            raise CommandError(str(error)) from error

    report = run(work)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)


def _show(report: ImportReport) -> None:
    for name, count in (
        ("batches", report.batches),
        ("  new", report.new_batches),
        ("codes added", report.codes),
        ("  in Redis", report.in_redis),
        ("used, added", report.used),
        ("unchanged", report.unchanged),
        ("skipped", report.skipped),
        ("conflicts", report.conflicts),
        ("noted", report.noted),
        ("clients added", report.clients),
    ):
        typer.echo(f"{name:<16} {count:>12,}")
    rate = f" ({report.codes / report.seconds:,.0f} codes/s)" if report.seconds and report.codes else ""
    typer.echo(f"{'seconds':<16} {report.seconds:>12,.1f}{rate}")
    for problem in report.problems:
        where = " ".join(filter(None, (problem.batch, problem.code)))
        typer.echo(visible(f"  {where}: {problem.reason}"))
    rest = report.skipped + report.conflicts + report.noted - len(report.problems)
    if rest > 0:
        typer.echo(f"  … and up to {rest:,} more")

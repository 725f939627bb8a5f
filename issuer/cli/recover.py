"""`issuer recover`, `quarantined`, `journal`, `max-backlog`, `doctor`: for the night when something was lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from issuer.cli.output import CommandError, InputError, command_settings, print_json, run, run_plain

if TYPE_CHECKING:
    from issuer.ledger.record import RecordResult
    from issuer.recovery.recovery import RecoveryOptions, RecoveryReport
    from issuer.settings import Settings
    from issuer.storage.stores import Stores


def register(app: typer.Typer) -> None:
    app.command("recover")(recover)
    app.command("doctor")(doctor)
    app.command("max-backlog")(max_backlog)
    quarantined = typer.Typer(help="Codes that a lost Redis may have handed out.", no_args_is_help=True)
    quarantined.command("list")(list_quarantined)
    quarantined.command("release")(release)
    app.add_typer(quarantined, name="quarantine")
    journal = typer.Typer(help="The receipt journal of the API hosts.", no_args_is_help=True)
    journal.command("replay")(replay)
    app.add_typer(journal, name="journal")


_JSON = typer.Option(False, "--json", help="Print JSON.")


def recover(
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be done, change nothing."),
    restored: bool = typer.Option(
        False, "--restored", help="These data (Redis' or Postgres') come from a backup: treat them as incomplete."
    ),
    margin: int = typer.Option(
        0, "--margin", min=0, help="Quarantined at least this many codes of each pool. It can only raise the bound."
    ),
    as_json: bool = _JSON,
) -> None:
    """Recover the Redis server and bless it. Every process does so by itself; this adds what only you can know."""
    from issuer.recovery.recovery import RecoveryOptions

    settings = command_settings()
    report = run_plain(lambda: _recover(settings, RecoveryOptions(restored, margin, dry_run)), settings=settings)
    if as_json:
        print_json(report.to_json() if report else None)
    elif report is None:
        typer.echo("the server is blessed already; nothing to recover")
    else:
        _print_report(report, dry_run)


async def _recover(settings: Settings, orders: RecoveryOptions) -> RecoveryReport | None:
    from issuer.recovery.guardian import Guardian
    from issuer.recovery.inspection import IncidentError
    from issuer.storage.incarnation import Incarnations
    from issuer.storage.postgres import close_pool, connect_pool

    postgres = await connect_pool(settings, size=2)
    try:
        incarnations = Incarnations(settings, postgres)
        guardian = Guardian(settings, postgres, incarnations)
        try:
            await incarnations.start()
            return await guardian.check(orders)
        except IncidentError as error:
            raise CommandError(str(error)) from error
        finally:
            await guardian.aclose()
    finally:
        await close_pool(postgres)


def _print_report(report: RecoveryReport, dry_run: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    verb = "would be" if dry_run else "was"
    console.print(f"verdict: [bold]{report.verdict}[/bold]; the server {verb} blessed with epoch {report.epoch}")
    for reason in report.reasons:
        console.print(f"  because {reason}")
    if report.verdict == "loss":
        console.print(f"drained from the stream: {report.drained}; replayed from the journal: {report.replayed}")
    for host in report.journals_not_seen:
        console.print(f"[yellow]the journal of host {host} was not seen: run `issuer journal replay` there[/yellow]")
    table = Table("pool", "batch", "client", "ledger", "issued before", "issued after", "quarantined")
    for pool in report.pools:
        before = "-" if pool.issued_before is None else f"{pool.issued_before}"
        table.add_row(
            f"{pool.pool_id}", f"{pool.batch_id}", f"{pool.client_id}", f"{pool.accounted}", before,
            f"{pool.issued_after}", f"{pool.quarantined}",
        )  # fmt: skip
    console.print(table)


def doctor(as_json: bool = _JSON) -> None:
    """Examine the installation: one line for each thing, and what to set where it is wrong. Exit code 1 if any is."""
    from issuer.recovery.doctor import Check, examine
    from issuer.storage.postgres import close_pool, connect_pool

    settings = command_settings()

    async def look() -> list[Check]:
        postgres = await connect_pool(settings, size=2, timeout_s=5.0)
        try:
            return await examine(settings, postgres)
        finally:
            await close_pool(postgres)

    checks = run_plain(look, settings=settings)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            typer.echo(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.found}")
            if not check.ok:
                typer.echo(f"      → {check.advice}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def max_backlog(
    bound: int = typer.Argument(min=1, max=1_000_000_000, help="Redemptions of a partition that may wait."),
    wait_s: float = typer.Option(30.0, "--wait", min=0, help="Seconds to wait for the backlog to come down to it."),
) -> None:
    """Change how many redemptions may wait for the ledger, and so how many codes a lost Redis can hide."""
    from issuer.access.audit import cli_actor
    from issuer.recovery.backlog import set_max_backlog

    if run(lambda stores: set_max_backlog(stores, bound, wait_s=wait_s, actor=cli_actor())):
        typer.echo(f"the backlog of a partition is bounded by {bound}")
    else:
        raise typer.Exit(1)


def list_quarantined(
    batch_id: UUID | None = typer.Option(None, "--batch-id", help="Only this batch."), as_json: bool = _JSON
) -> None:
    """Show what was quarantined, by recovery and pool."""
    from issuer.recovery.quarantine import list_quarantined as listed

    found = run(lambda stores: listed(stores, batch_id))
    if as_json:
        print_json(found)
        return
    for held in found:
        typer.echo(
            f"{held.batch_name} ({held.batch_id}), client {held.client_id}: {held.held} held, {held.released} released,"
            f" seqs {held.first_seq}-{held.last_seq}, since {held.quarantined_at:%Y-%m-%d %H:%M} (epoch {held.epoch})"
        )
    if not found:
        typer.echo("nothing is quarantined")


def release(
    batch_id: UUID = typer.Argument(help="The batch whose quarantined codes go back to the tail of their pools."),
    client: UUID | None = typer.Option(None, "--client", help="Only this client's."),
    yes: bool = typer.Option(False, "--yes", help="You are sure: all journals were replayed, old primaries drained."),
    as_json: bool = _JSON,
) -> None:
    """Give quarantined codes back. A code that a customer did get would then be handed out a second time."""
    from issuer.access.audit import cli_actor
    from issuer.batches.store import BatchNotFoundError
    from issuer.recovery.quarantine import release as give_back

    if not yes and not typer.confirm("Were all journals replayed, and is no old primary alive that knows these codes?"):
        raise typer.Exit(1)

    async def work(stores: Stores) -> int:
        try:
            return await give_back(stores, batch_id, client_id=client, actor=cli_actor())
        except BatchNotFoundError as error:
            raise InputError(str(error)) from error

    released = run(work)
    if as_json:
        print_json({"released": released})
    else:
        typer.echo(f"released {released} codes; they come last in their pools")


def replay(
    directory: Path | None = typer.Argument(None, help="Of the segments; default: ISSUER_JOURNAL_DIR."),
    as_json: bool = _JSON,
) -> None:
    """Bring this host's receipts into the ledger. Safe to repeat."""
    settings = command_settings()
    place = directory or settings.journal_dir
    if place is None:
        raise typer.BadParameter("name a directory, or set ISSUER_JOURNAL_DIR")
    if not place.is_dir():
        raise typer.BadParameter(f"{place} is not a directory")

    async def work() -> RecordResult:
        from issuer.recovery.replay import replay_host
        from issuer.storage.postgres import own_connection

        async with own_connection(settings) as connection:
            epoch = await connection.fetchval("SELECT epoch FROM installation")
            return await replay_host(connection, place, epoch or 0)

    recorded = run_plain(work, settings=settings)
    if as_json:
        print_json(recorded)
    else:
        typer.echo(
            f"{recorded.inserted} new in the ledger, {recorded.duplicates} there already,"
            f" {recorded.anomalies} anomalies, {len(recorded.rejected)} rejected"
        )
    raise typer.Exit(1 if recorded.rejected or recorded.anomalies else 0)

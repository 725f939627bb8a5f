"""`issuer recover`, `quarantine`, `journal`, `max-backlog` and `doctor`: recovery from lost data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from issuer.cli.chosen_batch import ANY_BATCH, any_batch
from issuer.cli.options import AS_JSON, client_option
from issuer.cli.output import (
    BAD_INPUT,
    CommandError,
    InputError,
    command_settings,
    fail,
    print_json,
    process_settings,
    run,
    run_plain,
)
from issuer.cli.tables import print_table, shown_time

if TYPE_CHECKING:
    from issuer.ledger.record import RecordResult
    from issuer.recovery.recovery import RecoveryOptions, RecoveryReport
    from issuer.recovery.release import QuarantinedRange
    from issuer.settings import Settings
    from issuer.storage.stores import Stores


def register(app: typer.Typer) -> None:
    app.command("recover")(recover)
    app.command("doctor")(doctor)
    app.command("max-backlog")(max_backlog)
    quarantine = typer.Typer(help="List and release codes that a lost Redis may have issued.", no_args_is_help=True)
    quarantine.command("list")(list_quarantined)
    quarantine.command("release")(release)
    app.add_typer(quarantine, name="quarantine")
    journal = typer.Typer(help="Replay the receipt journal of this API host.", no_args_is_help=True)
    journal.command("replay")(replay)
    app.add_typer(journal, name="journal")


def recover(
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be done, change nothing."),
    restored: bool = typer.Option(
        False,
        "--restored",
        help="The data of Redis or Postgres come from a backup, or Postgres went back: go on with them, as incomplete.",
    ),
    margin: int = typer.Option(
        0, "--margin", min=0, help="Quarantine at least this many codes of each pool; it can only raise the number."
    ),
    clock: bool = typer.Option(
        False, "--clock", help="Set clocks of partitions that are ahead of Redis' clock to that; rebuild the limits."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Recover the Redis server and bless it.

    Every process recovers by itself; this command adds facts that only the operator knows.
    """
    from issuer.recovery.recovery import RecoveryOptions

    settings = command_settings()
    options = RecoveryOptions(restored, margin, dry_run, rebuild=clock)
    report = run_plain(lambda: _recover(settings, options), settings=settings)
    if as_json:
        print_json(report.to_json() if report else None)
    elif report is None:
        typer.echo("the server is blessed already; nothing to recover")
    else:
        _print_report(report, dry_run)


async def _recover(settings: Settings, options: RecoveryOptions) -> RecoveryReport | None:
    from issuer.recovery.guardian import Guardian
    from issuer.storage.incarnation import Incarnations
    from issuer.storage.lineage import IncidentError
    from issuer.storage.postgres import close_pool, connect_pool

    postgres = await connect_pool(settings, size=2)
    try:
        incarnations = Incarnations(settings, postgres)
        guardian = Guardian(settings, postgres, incarnations)
        try:
            await incarnations.start(restored=options.restored)
            return await guardian.check(options)
        except IncidentError as error:
            raise CommandError(str(error)) from error
        finally:
            await guardian.aclose()
    finally:
        await close_pool(postgres)


def _print_report(report: RecoveryReport, dry_run: bool) -> None:
    verb = "would be" if dry_run else "was"
    typer.echo(f"verdict: {report.verdict}; the server {verb} blessed with epoch {report.epoch}")
    for reason in report.reasons:
        typer.echo(f"  because {reason}")
    if report.verdict in ("exact", "bounded") or report.drained:
        typer.echo(f"drained from the stream: {report.drained}")
    for missing in report.missing:
        typer.echo(f"missing: {missing}; start the API there, or run `issuer journal replay`: the quarantine ends then")
    headers = ("pool", "batch", "client", "ledger", "issued before", "issued after", "quarantined")
    rows = [
        (str(pool.pool_id), str(pool.batch_id), str(pool.client_id), pool.accounted,
         "-" if pool.issued_before is None else pool.issued_before, pool.issued_after, pool.quarantined)
        for pool in report.pools
    ]  # fmt: skip
    print_table(headers, rows, empty="no pools")


def doctor(as_json: bool = AS_JSON) -> None:
    """Check the installation: one line per check, with advice if it fails. Exit code 1 if any check fails."""
    from issuer.recovery.doctor import Check, examine
    from issuer.storage.postgres import close_pool, connect_pool

    settings = process_settings()

    async def work() -> list[Check]:
        postgres = await connect_pool(settings.as_owner(), size=2, timeout_s=5.0)
        try:
            return await examine(settings, postgres)
        finally:
            await close_pool(postgres)

    checks = run_plain(work, settings=settings)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            typer.echo(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.found}")
            if not check.ok:
                typer.echo(f"      → {check.advice}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def max_backlog(
    bound: int = typer.Argument(min=1, max=1_000_000_000, help="Redemptions in the backlog of one partition."),
    wait_s: float = typer.Option(30.0, "--wait", min=0, help="Seconds to wait until the backlog is below a new bound."),
    as_json: bool = AS_JSON,
) -> None:
    """Change the bound of the backlog, and thus of the codes that are quarantined when Redis is lost."""
    from issuer.access.audit import cli_actor
    from issuer.recovery.backlog import set_max_backlog

    if not run(lambda stores: set_max_backlog(stores, bound, wait_s=wait_s, actor=cli_actor())):
        fail(f"a backlog is still above {bound}; Redis enforces the new bound. Repeat the command when it has shrunk.")
    if as_json:
        print_json({"max_backlog": bound})
    else:
        typer.echo(f"the backlog of each partition is bounded by {bound}")


def list_quarantined(batch: str | None = ANY_BATCH, as_json: bool = AS_JSON) -> None:
    """List quarantined codes, by recovery and pool."""
    from issuer.recovery.release import list_quarantined as read_quarantined

    async def work(stores: Stores) -> list[QuarantinedRange]:
        return await read_quarantined(stores.postgres, await any_batch(stores.postgres, batch))

    pools = run(work)
    if as_json:
        print_json(pools)
        return
    rows = [
        (pool.batch_name, str(pool.batch_id), str(pool.client_id), pool.held, pool.released,
         f"{pool.first_seq}-{pool.last_seq}", shown_time(pool.quarantined_at), pool.epoch)
        for pool in pools
    ]  # fmt: skip
    headers = ("name", "batch", "client", "held", "released", "seqs", "since", "epoch")
    print_table(headers, rows, empty="no codes are quarantined")


def release(
    batch: str = typer.Argument(metavar="BATCH", help="Name or id of the batch or campaign, or code of the coupon."),
    client: str | None = typer.Option(None, "--client", help="Only codes of this client."),
    yes: bool = typer.Option(
        False, "--yes", help="Do not ask whether all journals were replayed and no old primary runs."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Append the quarantined codes of a batch to the tail of their pools.

    A code that a customer has received is then issued a second time.
    """
    from issuer.access.audit import cli_actor
    from issuer.batches.store import BatchNotFoundError
    from issuer.recovery.release import release as release_quarantined

    settings = command_settings()
    if not yes:
        question = "Were all journals replayed, and does no old primary with these codes run?"
        typer.confirm(question, abort=True, err=True)

    async def work(stores: Stores) -> int:
        try:
            client_id = await client_option(stores.postgres, client)
            batch_id = await any_batch(stores.postgres, batch)
            assert batch_id is not None
            return await release_quarantined(stores, batch_id, client_id=client_id, actor=cli_actor())
        except BatchNotFoundError as error:
            raise InputError(str(error)) from error

    released = run(work, settings=settings)
    if as_json:
        print_json({"released": released})
    else:
        typer.echo(f"released {released} codes to the tail of their pools")


def replay(
    directory: Path | None = typer.Argument(None, help="Directory of the journals; default: ISSUER_JOURNAL_DIR."),
    restored: bool = typer.Option(
        False, "--restored", help="Postgres was restored or went back since they were written: that is no incident."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Record the receipts of this host's dead processes in the ledger. Safe to repeat.

    Each API process does so by itself, for those of its host: this is for a host on which none can run, or a copy.
    """
    settings = command_settings()
    path = directory or settings.journals
    if path is None:
        fail("give a directory, or set ISSUER_JOURNAL_DIR", BAD_INPUT)
    if not path.is_dir():
        fail(f"{path} is not a directory", BAD_INPUT)

    async def work() -> RecordResult:
        from issuer.registration.replay import settle_dead
        from issuer.storage.incarnation import read_installation_id
        from issuer.storage.postgres import close_pool, connect_pool

        postgres = await connect_pool(settings, size=1)
        try:
            installation = await read_installation_id(postgres)
        finally:
            await close_pool(postgres)
        found = settings.model_copy(update={"journal": "on", "journal_dir": path})
        return await settle_dead(found, installation, restored=restored)

    recorded = run_plain(work, settings=settings)
    if as_json:
        print_json(recorded)
    else:
        typer.echo(
            f"{recorded.inserted} recorded, {recorded.duplicates} already in the ledger,"
            f" {recorded.anomalies} anomalies, {len(recorded.rejected)} rejected"
        )
    raise typer.Exit(1 if recorded.rejected or recorded.anomalies else 0)

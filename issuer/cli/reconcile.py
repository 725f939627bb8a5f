"""`issuer reconcile`: check that every issued code is accounted for, and show which is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.chosen_batch import ANY_BATCH, any_batch
from issuer.cli.options import AS_JSON
from issuer.cli.output import FAILED, print_json, run

if TYPE_CHECKING:
    from issuer.ledger.partition_balance import PartitionBalance
    from issuer.ledger.reconcile import PoolBalance
    from issuer.loyalty.reconcile import PointsReconciliation
    from issuer.storage.stores import Stores


def register(app: typer.Typer) -> None:
    app.command()(reconcile)


def reconcile(
    batch: str | None = ANY_BATCH,
    as_json: bool = AS_JSON,
) -> None:
    """Check per pool that ledger + backlog + quarantined + dead letters = issued, each seq in exactly one of them.

    Also checks that no client has a code more than once and, without --batch, per partition that recorded + backlog +
    dead letters + quarantined + void = serial (the number of all that it ever granted), that each account of points is
    what its entries add up to, and that every points move has its entries and its code. May run while codes are
    redeemed; changes nothing. Exit code 0: it all holds; 1: it does not.
    """
    from issuer.reconciliation.whole import WholeReconciliation, reconcile_whole

    async def work(stores: Stores) -> WholeReconciliation:
        return await reconcile_whole(stores, await any_batch(stores.postgres, batch))

    whole = run(work)
    result, points, moves = whole.ledger, whole.points, whole.moves
    if as_json:
        print_json(whole.to_json())
    else:
        for pool in result.pools:
            _show(pool)
        for partition in result.partitions:
            if not partition.holds:
                _show_partition(partition)
        if result.unreadable:
            typer.echo(f"{result.unreadable} unreadable events; their seqs are unknown (issuer dead-letters list)")
        for code in result.repeated:
            batches = ", ".join(map(str, code.batch_ids))
            typer.echo(f"WRONG client {code.client_id} has the code {code.code!r} more than once: batches {batches}")
        for move in moves:
            typer.echo(f"WRONG points move {move.move_id}: {move.problem}")
        typer.echo(f"{len(result.pools)} pools, {_state(sum(not pool.holds for pool in result.pools))}")
        if result.partitions:
            wrong = sum(not partition.holds for partition in result.partitions)
            typer.echo(f"{len(result.partitions)} partitions, {_state(wrong)}")
        if points.accounts:
            _show_points(points)
    if not whole.holds:
        raise typer.Exit(FAILED)


def _state(wrong: int) -> str:
    return f"{wrong} wrong" if wrong else "all balanced"


def _show_partition(partition: PartitionBalance) -> None:
    typer.echo(
        f"WRONG partition {partition.partition}: recorded {partition.recorded} + backlog {partition.backlog}"
        f" + dead letters {partition.dead_letters} + quarantined {partition.quarantined} + void {partition.void}"
        f" = {partition.accounted}, serial {partition.serial}"
    )
    for problem in partition.problems:
        typer.echo(f"      {problem}")


def _show_points(points: PointsReconciliation) -> None:
    for problem in points.problems:
        typer.echo(f"WRONG account {problem.account_id}: {problem.problem}")
    typer.echo(f"{points.accounts} accounts of points with {points.entries} entries, {_state(points.broken)}")


def _show(pool: PoolBalance) -> None:
    typer.echo(
        f"{'ok   ' if pool.holds else 'WRONG'} pool {pool.pool_id}: ledger {pool.ledger} + backlog {pool.backlog}"
        f" + quarantined {pool.quarantined} + dead letters {pool.dead_letters} = {pool.accounted},"
        f" issued {pool.issued}  (batch {pool.batch_name!r} {pool.batch_id}, client {pool.client_id})"
    )
    for problem in pool.problems:
        typer.echo(f"      {problem}")
    for name, seqs in (("missing", pool.missing), ("doubled", pool.doubled), ("wrong code", pool.wrong_code)):
        if seqs:
            typer.echo(f"      {name} seqs: {', '.join(map(str, seqs))}")

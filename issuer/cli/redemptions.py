"""`issuer redemptions`: export the ledger, erase a customer's id from it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from issuer.cli.output import CommandError, InputError, print_json, run
from issuer.instants import InvalidInstantError, parse_instant

if TYPE_CHECKING:
    from issuer.ledger.erasure import Erasure
    from issuer.ledger.export import Selection
    from issuer.stores import Stores

commands = typer.Typer(help="Export redemptions, erase a customer's id.", no_args_is_help=True)


class Format(StrEnum):
    CSV = "csv"


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="redemptions")


@commands.command()
def export(
    format_: Format = typer.Option(Format.CSV, "--format", help="csv."),
    batch_id: UUID | None = typer.Option(None, help="Only of this batch."),
    client: UUID | None = typer.Option(None, help="Only of this client."),
    from_: str | None = typer.Option(None, "--from", help="Only from this time on; ISO 8601 with an offset."),
    to: str | None = typer.Option(None, "--to", help="Only before this time."),
    output: Path | None = typer.Option(None, "--output", "-o", help="File to write; none: stdout."),
    raw: bool = typer.Option(
        False, "--raw", help="Codes exactly as they are. Without it, one that a spreadsheet would take for a formula"
        " gets an apostrophe in front.",
    ),
) -> None:  # fmt: skip
    """Export the ledger, oldest seq first in each pool. The number of redemptions goes to stderr at the end."""
    from issuer.ledger.export import Selection, export_csv

    async def work(stores: Stores) -> int | None:
        selection = Selection(batch_id, client, _instant("--from", from_), _instant("--to", to))
        if output is not None:
            return await _export_to_file(stores, selection, output, guard=not raw)
        # Without translation of line ends, and whatever the terminal's encoding is.
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
        try:
            count = await export_csv(stores.postgres, selection, sys.stdout.write, guard=not raw)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has seen enough; Python would complain once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except OSError as error:
            raise CommandError(f"cannot write: {error.strerror}") from error
        return count

    count = run(work)
    if count is None:
        raise typer.Exit(1)
    typer.echo(f"{count} redemptions", err=True)


async def _export_to_file(stores: Stores, selection: Selection, output: Path, *, guard: bool) -> int:
    """A file of that name is a whole export, always: it appears when it is complete."""
    from issuer.ledger.export import export_csv

    part = output.with_name(output.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            count = await export_csv(stores.postgres, selection, file.write, guard=guard)
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return count


@commands.command("erase-customer")
def erase_customer(
    customer: UUID = typer.Argument(..., metavar="CUSTOMER", help="The customer's id."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Erase a customer's id from the ledger. The redemptions and their count stay; limits forget the customer."""
    from issuer.audit import cli_actor
    from issuer.ledger.erasure import BacklogNotEmptyError
    from issuer.ledger.erasure import erase_customer as erase

    if not yes:
        typer.confirm("This cannot be undone. Erase the id?", abort=True, err=True)

    async def work(stores: Stores) -> Erasure:
        try:
            return await erase(stores, customer, actor=cli_actor())
        except BacklogNotEmptyError as error:
            raise CommandError(f"nothing was erased: {error}") from error

    erasure = run(work)
    if as_json:
        print_json(asdict(erasure))
    else:
        uses = f" and {erasure.consumptions} uses of coupons" if erasure.consumptions else ""
        typer.echo(f"erased from {erasure.redemptions} redemptions{uses} in {erasure.batches} batches")
    if erasure.dead_letters:
        typer.echo(f"{erasure.dead_letters} dead letters still hold the id: settle them, then repeat this", err=True)


def _instant(option: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_instant(text)
    except InvalidInstantError as error:
        raise InputError(f"{option}: {error}") from error

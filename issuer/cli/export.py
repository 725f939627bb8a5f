"""`… export`: a report as a file or on stdout. The same command for every report, under the noun that it is about."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from uuid import UUID

import typer

from issuer.cli.output import BAD_INPUT, CommandError, command_settings, fail, run_with_postgres
from issuer.instants import InvalidInstantError, parse_instant
from issuer.names import name_problem
from issuer.reports.formats import CsvEncoder, Format, NdjsonEncoder, encoded
from issuer.reports.report import REPORTS, Filter, Report

if TYPE_CHECKING:
    from issuer.reports.report import Selection
    from issuer.reports.rows import Rows
    from issuer.storage.postgres import Pool

_OPTIONS: Final = {
    Filter.BATCH: "--batch-id",
    Filter.CLIENT: "--client",
    Filter.CUSTOMER: "--customer",
    Filter.CODE: "--code",
    Filter.FROM: "--from",
    Filter.TO: "--to",
}


def add_export(commands: typer.Typer, report_name: str) -> None:
    """Gives these commands an `export` of the report."""
    report = REPORTS[report_name]

    @commands.command("export", help=f"{report.summary}. The number of rows goes to stderr at the end.")
    def export(
        format_: Format = typer.Option(Format.CSV, "--format", help="csv, ndjson or xlsx."),
        batch_id: UUID | None = typer.Option(None, help="Only of this batch."),
        client: UUID | None = typer.Option(None, help="Only of this client."),
        customer: UUID | None = typer.Option(None, help="Only of this customer."),
        code: str | None = typer.Option(None, help="Only of this coupon."),
        from_: str | None = typer.Option(None, "--from", help="Only from this time on; ISO 8601 with an offset."),
        to: str | None = typer.Option(None, "--to", help="Only before this time."),
        output: Path | None = typer.Option(None, "--output", "-o", help="File to write; none: stdout."),
        raw: bool = typer.Option(
            False, "--raw", help="csv: text exactly as it is. Without it, what a spreadsheet would take for a formula"
            " gets an apostrophe in front.",
        ),
    ) -> None:  # fmt: skip
        values = (batch_id, client, customer, code, _instant("--from", from_), _instant("--to", to))
        selection = {name: value for name, value in zip(_OPTIONS, values, strict=True) if value is not None}
        if code is not None and name_problem(code) is not None:
            fail("--code: must be the code of a coupon", BAD_INPUT)
        for name in selection:
            if name not in report.filters:
                fail(f"{report.name} cannot be narrowed with {_OPTIONS[name]}", BAD_INPUT)
        if format_ is Format.XLSX and output is None:
            fail("an xlsx goes to a file only: name it with --output", BAD_INPUT)
        _export(_Export(report, format_, output, guard=not raw), selection)


class _Export:
    """One run of the command."""

    def __init__(self, report: Report, format_: Format, output: Path | None, *, guard: bool) -> None:
        self.report = report
        self.format = format_
        self.output = output
        self.guard = guard

    async def to_file(self, rows: Rows, output: Path) -> int:
        """A file of that name is a whole export, always: it appears when it is complete."""
        part = output.with_name(output.name + ".part")
        try:
            with part.open("wb") as file:
                count = await (self._workbook(rows, file) if self.format is Format.XLSX else self.text(rows, file))
                file.flush()
                os.fsync(file.fileno())
            part.replace(output)
        except OSError as error:
            raise CommandError(f"cannot write {output}: {error.strerror}") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return count

    async def to_stdout(self, rows: Rows) -> int | None:
        """None: the reader has seen enough."""
        try:
            count = await self.text(rows, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Python would complain once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except OSError as error:
            raise CommandError(f"cannot write: {error.strerror}") from error
        return count

    async def text(self, rows: Rows, file: BinaryIO) -> int:
        csv = self.format is Format.CSV
        encoder = CsvEncoder(self.report, guard=self.guard) if csv else NdjsonEncoder(self.report)
        async with aclosing(encoded(rows, encoder)) as pieces:
            async for piece in pieces:
                file.write(piece)
        return encoder.rows

    async def _workbook(self, rows: Rows, file: BinaryIO) -> int:
        from issuer.reports.spool import ReportTooLargeError, WorkbookError, workbook

        try:
            async with workbook(self.report, rows) as (source, count):
                shutil.copyfileobj(source, file)
        except (ReportTooLargeError, WorkbookError) as error:
            raise CommandError(str(error)) from error
        return count


def _export(export: _Export, selection: Selection) -> None:
    from issuer.reports.rows import read_rows

    limit_s = command_settings().report_timeout_s

    async def work(postgres: Pool) -> int | None:
        rows = read_rows(postgres.acquire(), export.report, selection, timeout_s=limit_s)
        async with aclosing(rows):
            return await (export.to_stdout(rows) if export.output is None else export.to_file(rows, export.output))

    count = run_with_postgres(work)
    if count is None:
        raise typer.Exit(1)
    typer.echo(f"{count} {export.report.name}", err=True)


def _instant(option: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_instant(text)
    except InvalidInstantError as error:
        fail(f"{option}: {error}", BAD_INPUT)

"""`… export`: write a report to a file or stdout. Every report has this command, in the group that it belongs to."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from uuid import UUID

import typer

from issuer.cli.chosen_batch import ANY_BATCH, any_batch
from issuer.cli.options import identity_option, instant_option
from issuer.cli.output import BAD_INPUT, CommandError, InputError, command_settings, fail, run_with_postgres
from issuer.names import text_problem
from issuer.reports.catalogue import REPORTS
from issuer.reports.formats import CsvEncoder, Format, NdjsonEncoder, encoded
from issuer.reports.report import Filter, Report

if TYPE_CHECKING:
    from issuer.reports.report import Selection
    from issuer.reports.rows import Rows
    from issuer.storage.postgres import Pool

_OPTIONS: Final = {
    Filter.BATCH: "--batch",
    Filter.CLIENT: "--client",
    Filter.CUSTOMER: "--customer",
    Filter.CODE: "--code",
    Filter.PROGRAM: "--program",
    Filter.FROM: "--from",
    Filter.TO: "--to",
}


def add_export(commands: typer.Typer, report_name: str) -> None:
    """Add the command `export` of a report to a group."""
    report = REPORTS[report_name]

    @commands.command("export", help=f"{report.summary}. The number of rows is printed to stderr at the end.")
    def export(
        format_: Format = typer.Option(Format.CSV, "--format", help="csv, ndjson or xlsx."),
        batch: str | None = ANY_BATCH,
        client: str | None = typer.Option(None, help="Only rows of this client: a UUID or a text."),
        customer: str | None = typer.Option(None, help="Only rows of this customer: a UUID or a text."),
        code: str | None = typer.Option(None, help="Only rows of the coupon with this code."),
        program: str | None = typer.Option(None, help="Only rows of this program: its name or id."),
        from_: str | None = typer.Option(None, "--from", help="Only rows from this time on; ISO 8601 with an offset."),
        to: str | None = typer.Option(None, "--to", help="Only rows before this time."),
        output: Path | None = typer.Option(None, "--output", "-o", help="File to write; default: stdout."),
        raw: bool = typer.Option(
            False, "--raw", help="csv: write text unchanged. Without it, text that a spreadsheet would read as a"
            " formula gets an apostrophe in front.",
        ),
        excel: bool = typer.Option(
            False, "--excel", help="csv for a double click in Excel: byte order mark, semicolons, codes such as 0012"
            " stay text. Where Excel separates by commas, take --format xlsx.",
        ),
    ) -> None:  # fmt: skip
        try:
            start, end = instant_option(from_, "--from"), instant_option(to, "--to")
        except InputError as error:
            fail(str(error), BAD_INPUT)
        values = (batch, client, customer, code, program, start, end)
        selection = {name: value for name, value in zip(_OPTIONS, values, strict=True) if value is not None}
        if code is not None and text_problem(code) is not None:
            fail("--code: must be the code of a coupon", BAD_INPUT)
        for name in selection:
            if name not in report.filters:
                fail(f"{report.name} cannot be filtered with {_OPTIONS[name]}", BAD_INPUT)
        if excel and (raw or format_ is not Format.CSV):
            fail("--excel is for csv, without --raw", BAD_INPUT)
        if format_ is Format.XLSX and output is None:
            fail("xlsx needs a file: give --output", BAD_INPUT)
        _export(_Export(report, format_, output, guard=not raw, excel=excel), selection)


class _Export:
    """One run of the command."""

    def __init__(self, report: Report, format_: Format, output: Path | None, *, guard: bool, excel: bool) -> None:
        self.report = report
        self.format = format_
        self.output = output
        self.guard = guard
        self.excel = excel

    async def to_file(self, rows: Rows, output: Path) -> int:
        """Write to a temporary file and rename it: a file with the final name is always a complete export."""
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
        """Write to stdout; return the number of rows, or None if the reader closed the pipe."""
        try:
            count = await self.text(rows, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Otherwise Python prints another error when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except OSError as error:
            raise CommandError(f"cannot write: {error.strerror}") from error
        return count

    async def text(self, rows: Rows, file: BinaryIO) -> int:
        """Write CSV or NDJSON; return the number of rows."""
        csv = self.format is Format.CSV
        encoder = CsvEncoder(self.report, guard=self.guard, excel=self.excel) if csv else NdjsonEncoder(self.report)
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
        ids = {
            name: await identity_option(postgres, str(selection[name]), _OPTIONS[name])
            for name in (Filter.CLIENT, Filter.CUSTOMER)
            if name in selection
        }
        if Filter.BATCH in selection:
            batch_id = await any_batch(postgres, str(selection[Filter.BATCH]))
            assert batch_id is not None
            ids[Filter.BATCH] = batch_id
        if Filter.PROGRAM in selection:
            ids[Filter.PROGRAM] = await _program(postgres, str(selection[Filter.PROGRAM]), ids.get(Filter.CLIENT))
        rows = read_rows(postgres.acquire(), export.report, {**selection, **ids}, timeout_s=limit_s)
        async with aclosing(rows):
            return await (export.to_stdout(rows) if export.output is None else export.to_file(rows, export.output))

    count = run_with_postgres(work)
    if count is None:
        raise typer.Exit(1)
    typer.echo(f"{count} {export.report.name}", err=True)


async def _program(postgres: Pool, given: str, client_id: UUID | None) -> UUID:
    """Return the id of the program that an option names. Raises InputError."""
    from issuer.cli.loyalty.chosen import named_program

    return (await named_program(postgres, given, client_id)).id

"""Write a report as an XLSX file in a process of its own; the file is available only when it is complete."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from issuer.reports.formats import NdjsonEncoder, encoded
from issuer.reports.report import Report
from issuer.reports.rows import Rows

MAX_ROWS: Final = 5_000_000
"""Rows of one workbook. While it is written, each takes about 1.5 kB in the directory for temporary files."""

_COMMAND: Final = (sys.executable, "-m", "issuer.reports.workbook")


class WorkbookError(Exception):
    """The workbook could not be written; the message says why."""


class ReportTooLargeError(Exception):
    """The report has more rows than a workbook may have."""


@asynccontextmanager
async def workbook(report: Report, rows: Rows) -> AsyncIterator[tuple[BinaryIO, int]]:
    """Yield the workbook, open for reading, and the number of its rows. Its file is removed.

    Raises WorkbookError, ReportTooLargeError, and what reading the rows raises.
    """
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="issuer-report-"))
    path = directory / f"{report.name}.xlsx"
    try:
        count = await _write(path, report, rows)
        file = await asyncio.to_thread(path.open, "rb")
    finally:
        # The open file stays readable, and nothing is left behind if this process is killed from here on.
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    with file:
        yield file, count


async def _write(path: Path, report: Report, rows: Rows) -> int:
    process = await asyncio.create_subprocess_exec(*_COMMAND, str(path), stdin=PIPE, stdout=DEVNULL, stderr=PIPE)
    try:
        encoder = NdjsonEncoder(report)
        # If the process ends early, its stderr has the cause; the broken pipe is only the consequence.
        with suppress(ConnectionError):
            await _feed(process, report, encoder, rows)
        assert process.stderr is not None
        output = await process.stderr.read()
        if await process.wait() != 0:
            lines = output.decode(errors="replace").strip().splitlines()
            raise WorkbookError(lines[-1] if lines else f"exit code {process.returncode}")
        return encoder.rows
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _feed(process: Process, report: Report, encoder: NdjsonEncoder, rows: Rows) -> None:
    """Write the report to the process, no faster than it reads."""
    assert process.stdin is not None
    process.stdin.write(orjson.dumps({"name": report.name, "columns": report.columns}) + b"\n")
    async with aclosing(encoded(rows, encoder)) as pieces:
        async for piece in pieces:
            if encoder.rows > MAX_ROWS:
                raise ReportTooLargeError(f"a workbook may have {MAX_ROWS:,} rows at most: narrow it, or ask for CSV")
            process.stdin.write(piece)
            await process.stdin.drain()
    process.stdin.close()
    await process.stdin.wait_closed()

"""A report as an XLSX file: fed to a process that writes the workbook, and there only when it is whole."""

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
"""Rows of one workbook. They take some 1.5 kB each in the directory for temporary files while it is written."""

_COMMAND: Final = (sys.executable, "-m", "issuer.reports.workbook")


class WorkbookError(Exception):
    """The workbook could not be written: the message says why."""


class ReportTooLargeError(Exception):
    """More rows than a workbook may have."""


@asynccontextmanager
async def workbook(report: Report, rows: Rows) -> AsyncIterator[tuple[BinaryIO, int]]:
    """The workbook, open for reading, and the number of its rows. Nothing is left of it after the block.

    Raises WorkbookError, ReportTooLargeError, and what reading the rows raises.
    """
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="issuer-report-"))
    path = directory / f"{report.name}.xlsx"
    try:
        count = await _write(path, report, rows)
        file = await asyncio.to_thread(path.open, "rb")
    finally:
        # An open file stays readable, and nothing is left if this process is killed from here on.
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    with file:
        yield file, count


async def _write(path: Path, report: Report, rows: Rows) -> int:
    process = await asyncio.create_subprocess_exec(*_COMMAND, str(path), stdin=PIPE, stdout=DEVNULL, stderr=PIPE)
    try:
        encoder = NdjsonEncoder(report)
        # A process that ends early says why; that its input was cut is only the consequence.
        with suppress(ConnectionError):
            await _feed(process, report, encoder, rows)
        assert process.stderr is not None
        complaint = await process.stderr.read()
        if await process.wait() != 0:
            lines = complaint.decode(errors="replace").strip().splitlines()
            raise WorkbookError(lines[-1] if lines else f"exit code {process.returncode}")
        return encoder.rows
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _feed(process: Process, report: Report, encoder: NdjsonEncoder, rows: Rows) -> None:
    """Writes no faster than the process reads."""
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

"""Read a workbook of codes: a process reads its cells, this one checks its rows. Memory does not grow with the file."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, BinaryIO, Final

import orjson

from issuer.loading.code_rows import BadCell, CodeRows
from issuer.loading.columns import Columns, empty_file
from issuer.loading.errors import CodeFileError
from issuer.loading.file_kind import FileKindError

_COMMAND: Final = (sys.executable, "-m", "issuer.loading.read_workbook")
_BLOCK_BYTES: Final = 16_384
"""About 1 ms of checking rows, after which other tasks of the event loop run."""


class WorkbookFileError(CodeFileError):
    """The workbook cannot be read; the message says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the workbook cannot be read: {reason}")


async def workbook_rows(file: BinaryIO, rows: CodeRows, sheet: str | None = None) -> AsyncGenerator[bytes]:
    """Yield the rows of a workbook for COPY, as `rows` numbers them. Raises CodeFileError.

    `file` is a regular file; its position afterwards is undefined.
    """
    words = (*_COMMAND, sheet) if sheet is not None else _COMMAND
    process = await asyncio.create_subprocess_exec(*words, stdin=file.fileno(), stdout=PIPE)
    try:
        async for block in _checked(process, rows):
            yield block
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _checked(process: Process, rows: CodeRows) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    columns: Columns | None = None
    rest = b""
    while block := await process.stdout.read(_BLOCK_BYTES):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        checked = []
        for line in lines:
            number, cells = orjson.loads(line)
            fields = [cell if isinstance(cell, str) else BadCell(cell[0]) for cell in cells]
            if columns is None:
                columns = rows.find_columns(fields)
            else:
                # A row ends with its last cell that is not empty.
                fields.extend([""] * (columns.width - len(fields)))
                checked.append(rows.add(number, fields, columns))
        if checked:
            yield b"".join(checked)
    _check_end(rest)
    if columns is None:
        raise empty_file()


def _check_end(line: bytes) -> None:
    """Raise CodeFileError unless the output is complete."""
    try:
        end: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise WorkbookFileError("it needs too much memory; save it as CSV UTF-8") from None
    if "kind" in end:
        raise FileKindError(end["kind"])
    if "error" in end:
        raise WorkbookFileError(end["error"])

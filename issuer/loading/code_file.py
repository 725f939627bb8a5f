"""A file of codes of any kind, recognised by its content: read block by block, its rows checked for COPY."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Final

from issuer.loading.code_csv import CodeCsv
from issuer.loading.code_rows import CodeRows
from issuer.loading.code_workbook import workbook_rows
from issuer.loading.columns import empty_file
from issuer.loading.file_kind import FileKindError, is_zip

_ATTRIBUTES_BYTES: Final = 8_192
_HEAD_BYTES: Final = 512
"""Enough to recognise a file."""


async def checked_rows(blocks: AsyncIterator[bytes], rows: CodeRows, sheet: str | None = None) -> AsyncGenerator[bytes]:
    """Yield the rows of a file for COPY, as `rows` numbers them. `sheet`: that of a workbook, by its name.

    Raises CodeFileError.
    """
    head = b""
    async for block in blocks:
        head += block
        if len(head) >= _HEAD_BYTES:
            break
    if not head:
        raise empty_file()
    if is_zip(head):
        # A zip archive has its directory at the end. The temporary file has no name: nothing is left of it.
        with tempfile.TemporaryFile() as file:
            file.write(head)
            async for block in blocks:
                file.write(block)
            file.flush()
            async with aclosing(workbook_rows(file, rows, sheet)) as pieces:
                async for piece in pieces:
                    yield piece
        return
    if sheet is not None:
        raise FileKindError("a text, which has no sheets")
    csv = CodeCsv(rows)
    for piece in _pieces(csv, head):
        yield piece
    async for block in blocks:
        for piece in _pieces(csv, block):
            yield piece
            await asyncio.sleep(0)
    yield csv.finish()


def _pieces(csv: CodeCsv, block: bytes) -> Iterator[bytes]:
    """Parse a block in pieces of about 1 ms: rows with attributes take several times as long."""
    size = _ATTRIBUTES_BYTES if csv.rows.attributes else len(block)
    for at in range(0, len(block), size):
        if rows := csv.feed(block[at : at + size]):
            yield rows

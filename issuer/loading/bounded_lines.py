"""Split a stream of bytes into lines of any length; memory is bounded by one block and one line."""

from __future__ import annotations

import re
from typing import Final

LINE_BYTES: Final = 65_536

OVERLONG: Final = b"," * (LINE_BYTES + 1)
"""Replaces a line of more than LINE_BYTES bytes, whose content is discarded as it arrives."""


_first_end = re.compile(rb"\n|\r(?=[^\n])").search


class BoundedLines:
    """A splitter of blocks into lines without their line ends: LF or CRLF, or CR where the first line ends with one.

    Elsewhere a CR is a character like any other, which codes may not have: it must not cut a code in two.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._by_cr: bool | None = None
        """None: the end of the first line has not arrived."""

    def feed(self, block: bytes) -> list[bytes]:
        """Return the lines that end in this block."""
        if self._by_cr is None:
            first = _first_end(self._rest + block)
            self._by_cr = None if first is None else first[0] == b"\r"
            if self._by_cr:
                block, self._rest = self._rest + block, b""
        if self._by_cr:
            block = block.replace(b"\r", b"\n")
        if self._skipping:
            end = block.find(b"\n")
            if end < 0:
                return []
            block = block[end:]
        data = self._rest + block
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if self._skipping:
            lines[0], self._skipping = OVERLONG, False
        if len(self._rest) > LINE_BYTES:
            self._rest, self._skipping = b"", True
        return [line if len(line) <= LINE_BYTES else OVERLONG for line in lines]

    def finish(self) -> list[bytes]:
        """Return the last line, if the file does not end with a line end."""
        if self._skipping:
            return [OVERLONG]
        return [self._rest.removesuffix(b"\r")] if self._rest else []

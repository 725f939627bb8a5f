"""Turn blocks of a text file into UTF-8 without a byte order mark."""

from __future__ import annotations

import codecs
from typing import Final

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD_BYTES: Final = 4


class Utf8Blocks:
    """The blocks of one file. UTF-8 passes as it is, valid or not; each row checks its own text."""

    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, block: bytes) -> bytes:
        """Return the next bytes as UTF-8."""
        if self._head is not None:
            self._head += block
            if len(self._head) < _HEAD_BYTES:
                return b""
            block = self._begin(self._head)
        return block if self._decoder is None else _encoded(self._decoder.decode(block))

    def finish(self) -> bytes:
        """Return what is left at the end of the file."""
        block = b"" if self._head is None else self._begin(self._head)
        if self._decoder is None:
            return block
        try:
            return _encoded(self._decoder.decode(block, final=True))
        except UnicodeDecodeError:
            # The file was cut off in a character: its last row must not pass for a complete one.
            return b"\xff"

    def _begin(self, head: bytes) -> bytes:
        """Choose the decoder; return the head without its mark."""
        self._head = None
        mark, encoding = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", _unmarked(head)))
        if encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        return head[len(mark) :]


def _unmarked(head: bytes) -> str:
    """Return the encoding of a head without a mark: that of a header, whose first characters are ASCII."""
    if len(head) == _HEAD_BYTES or len(head) > 1:
        if head[0] and not head[1]:
            return "utf-16-le"
        if head[1] and not head[0]:
            return "utf-16-be"
    return "utf-8"


def _encoded(text: str) -> bytes:
    # A lone surrogate becomes bytes that are not UTF-8, so its row is rejected as one that is not.
    return text.encode("utf-8", "surrogatepass")

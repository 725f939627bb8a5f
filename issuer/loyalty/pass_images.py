"""The images of a pass: a card in white on a ground of one colour, made here so that no file has to be supplied."""

from __future__ import annotations

import struct
import zlib
from typing import Final

GROUND: Final = (31, 64, 104)
_INK: Final = (255, 255, 255)
ICON_SIZE: Final = 29
"""Points of an icon; a screen with twice or three times the resolution takes the file for it."""


def icon(scale: int) -> bytes:
    """Return the PNG of an icon with `scale` pixels for each point."""
    size = ICON_SIZE * scale
    return _png([[_INK if _is_ink(x / size, y / size) else GROUND for x in range(size)] for y in range(size)])


def _is_ink(x: float, y: float) -> bool:
    """Return whether a point of the unit square is in the card, except its stripe."""
    return 0.17 <= x < 0.83 and 0.28 <= y < 0.72 and not 0.38 <= y < 0.49


def _png(rows: list[list[tuple[int, int, int]]]) -> bytes:
    """Return an image with 8 bits for each of red, green and blue (PNG, ISO/IEC 15948)."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    # Each row begins with its filter: 0, none.
    pixels = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

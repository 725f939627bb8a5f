"""Draw sheets of cards as a PDF. It runs as a process of its own: it keeps a core busy for seconds.

Run as ``python -m issuer.loyalty.card_sheet``. Standard input is the JSON of a `CardSheet`, standard output the PDF.
Needs the extra `cards`: reportlab draws, segno makes the QR codes.

A sheet is A4 with ten cards of the size of a bank card (85.6 × 54 mm, ISO/IEC 7810 ID-1) and marks to cut along. Both
codes contain the number without hyphens. A module of the barcode is 0.34 mm: two dots of a printer or scanner with
150 dpi.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Final

import orjson
import reportlab
import segno
from reportlab.graphics.barcode.code128 import Code128
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.lib.utils import simpleSplit
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.pdfgen.canvas import Canvas

from issuer.loyalty.card_number import show_number

CARD: Final = (85.6 * mm, 54 * mm)
COLUMNS, ROWS = 2, 5
_GUTTER: Final = 5 * mm
_LEFT: Final = (A4[0] - COLUMNS * CARD[0] - _GUTTER) / 2
_BOTTOM: Final = (A4[1] - ROWS * CARD[1]) / 2
_MARK: Final = 3 * mm
_MARGIN: Final = 5 * mm
_QR_SIZE: Final = 22 * mm
_BAR_WIDTH: Final = 0.34 * mm
_BAR_HEIGHT: Final = 9 * mm
_TITLE_SIZES: Final = (15.0, 12.0, 10.0, 8.0)
_TITLE_LINES: Final = 3
_CAPTION_SIZE: Final = 8.0
_NUMBER_SIZE: Final = 12.0
_FONT: Final = "card"
_NICENESS: Final = 10


class CardSheetError(Exception):
    """The sheets cannot be drawn. The message is written for the operator."""


def draw_sheets(title: str, caption: str, numbers: Sequence[str], font: Path | None = None) -> bytes:
    """Return a PDF of cards with these numbers. `title`: the name on each card; `caption`: a line below it.

    `font`: a TrueType font for the texts; None: a font for Western languages. Raises CardSheetError.
    """
    _load_font(font, title + caption)
    output = BytesIO()
    canvas = Canvas(output, pagesize=A4, pageCompression=1)
    canvas.setTitle(title)
    canvas.setCreator("issuer")
    per_page = COLUMNS * ROWS
    for start in range(0, len(numbers), per_page):
        _draw_cut_marks(canvas)
        for place, number in enumerate(numbers[start : start + per_page]):
            row, column = divmod(place, COLUMNS)
            x = _LEFT + column * (CARD[0] + _GUTTER)
            y = _BOTTOM + (ROWS - 1 - row) * CARD[1]
            _draw_card(canvas, x, y, title, caption, number)
        canvas.showPage()
    canvas.save()
    return output.getvalue()


def _load_font(font: Path | None, text: str) -> None:
    path = font or Path(reportlab.__file__).with_name("fonts") / "VeraBd.ttf"
    try:
        loaded = TTFont(_FONT, str(path))
    except (TTFError, OSError) as error:
        raise CardSheetError(f"the font {path} cannot be read: {error}") from error
    missing = next((character for character in text if ord(character) not in loaded.face.charToGlyph), None)
    if missing is not None:
        raise CardSheetError(f"the font of the cards has no {missing!r}: set ISSUER_CARD_FONT to one that has it")
    pdfmetrics.registerFont(loaded)


def _draw_cut_marks(canvas: Canvas) -> None:
    """Draw short lines outside the cards, where their edges continue: nothing is printed on a card that is cut well."""
    canvas.setLineWidth(0.25)
    top = _BOTTOM + ROWS * CARD[1]
    lines = []
    for column in range(COLUMNS):
        for x in (left := _LEFT + column * (CARD[0] + _GUTTER), left + CARD[0]):
            lines += [(x, _BOTTOM - _MARK, x, _BOTTOM - _MARK / 3), (x, top + _MARK / 3, x, top + _MARK)]
    right = A4[0] - _LEFT
    middle = (A4[0] - _GUTTER) / 2
    for row in range(ROWS + 1):
        y = _BOTTOM + row * CARD[1]
        lines += [(_LEFT - _MARK, y, _LEFT - _MARK / 3, y), (right + _MARK / 3, y, right + _MARK, y)]
        lines += [(middle + _MARK / 3, y, middle + _GUTTER - _MARK / 3, y)]
    canvas.lines(lines)


def _draw_card(canvas: Canvas, x: float, y: float, title: str, caption: str, number: str) -> None:
    right, top = x + CARD[0] - _MARGIN, y + CARD[1] - _MARGIN
    size, lines = fit(title, right - _QR_SIZE - _MARGIN - (x + _MARGIN))
    canvas.setFont(_FONT, size)
    for line in lines:
        # A capital letter reaches 0.73 of the size above its base line.
        canvas.drawString(x + _MARGIN, top - 0.73 * size, line)
        top -= 1.2 * size
    canvas.setFont(_FONT, _CAPTION_SIZE)
    canvas.drawString(x + _MARGIN, top - 1.2 * _CAPTION_SIZE, caption)
    _draw_qr(canvas, right - _QR_SIZE, y + CARD[1] - _MARGIN - _QR_SIZE, number)
    barcode = Code128(number, barWidth=_BAR_WIDTH, barHeight=_BAR_HEIGHT, quiet=False)
    barcode.drawOn(canvas, x + (CARD[0] - barcode.width) / 2, y + _MARGIN + 1.25 * _NUMBER_SIZE)
    canvas.setFont(_FONT, _NUMBER_SIZE)
    canvas.drawCentredString(x + CARD[0] / 2, y + _MARGIN, show_number(number))


def fit(title: str, room: float) -> tuple[float, Sequence[str]]:
    """Return the largest size in which a title fits, and its lines; in the smallest the rest is cut."""
    for size in _TITLE_SIZES:
        lines = [str(line) for line in simpleSplit(title, _FONT, size, room)]
        if len(lines) <= _TITLE_LINES and all(stringWidth(line, _FONT, size) <= room for line in lines):
            return size, lines
    return size, [_cut(line, size, room) for line in lines[:_TITLE_LINES]]


def _cut(line: str, size: float, room: float) -> str:
    while stringWidth(line, _FONT, size) > room:
        line = line.rstrip("…")[:-1] + "…"
    return line


def _draw_qr(canvas: Canvas, x: float, y: float, number: str) -> None:
    """Draw the code with (x, y) as its lower left corner: one path, with one rectangle for each run of dark modules."""
    rows = [bytes(row) for row in segno.make_qr(number, error="m").matrix]
    size = _QR_SIZE / len(rows)
    path = canvas.beginPath()
    for line, row in enumerate(rows):
        for column, length in _runs(row):
            path.rect(x + column * size, y + (len(rows) - 1 - line) * size, length * size, size)
    canvas.drawPath(path, stroke=0, fill=1)


def _runs(row: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield start and length of each run of dark modules."""
    place = 0
    for is_dark, group in groupby(row):
        length = len(list(group))
        if is_dark:
            yield place, length
        place += length


def main() -> int:
    """Write the PDF of the sheets that standard input describes; return the exit code."""
    os.nice(_NICENESS)
    given = orjson.loads(sys.stdin.buffer.read())
    font = None if given["font"] is None else Path(given["font"])
    try:
        output = draw_sheets(given["title"], given["caption"], given["numbers"], font)
    except CardSheetError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

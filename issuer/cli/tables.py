"""Tables for people, printed as their rows are read: headers, columns of one width, numbers at the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import typer

from issuer.names import visible

Cell = str | int | None
"""None: unknown at present, shown as a question mark."""

_GAP: Final = "  "


class Table:
    """One table. `empty` is printed to stderr if there is no row: what to do to get one."""

    def __init__(self, headers: Sequence[str], *, empty: str) -> None:
        self._headers = headers
        self._empty = empty
        self._widths: list[int] = []
        self._numbers: list[bool] = []

    def add(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Print rows. Columns are as wide as all rows so far require, so that memory does not grow with the table."""
        from rich.cells import cell_len

        if not rows:
            return
        texts = [[_text(cell) for cell in row] for row in rows]
        if not self._widths:
            self._widths = [0] * len(self._headers)
            self._numbers = [any(isinstance(cell, int) for cell in column) for column in zip(*rows, strict=True)]
            texts.insert(0, list(self._headers))
        columns = zip(*texts, strict=True)
        self._widths = [max(width, *map(cell_len, column)) for width, column in zip(self._widths, columns, strict=True)]
        for row in texts:
            spaces = [" " * (width - cell_len(text)) for width, text in zip(self._widths, row, strict=True)]
            cells = zip(row, spaces, self._numbers, strict=True)
            typer.echo(_GAP.join(space + text if number else text + space for text, space, number in cells).rstrip())

    def close(self) -> None:
        """End the table."""
        if not self._widths:
            typer.echo(self._empty, err=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """Print a table whose rows are in memory."""
    table = Table(headers, empty=empty)
    table.add(list(rows))
    table.close()


def shown_time(time: datetime | None) -> str:
    """Return a time to the minute; - if there is none."""
    return "-" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%MZ}"


def _text(cell: Cell) -> str:
    if cell is None:
        return "?"
    return f"{cell:,}" if isinstance(cell, int) else visible(cell)

"""The progress bars of a load, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.progress import Progress

    from issuer.loading.progress import Progress as ProgressCallback


@contextmanager
def progress_bars(size: int | None, *, silent: bool = False) -> Iterator[ProgressCallback | None]:
    """Show the progress of each phase on a terminal, with rate and remaining time; None elsewhere."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[rate]:>16}"),
        TimeRemainingColumn(compact=True),
    )
    with Display(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars, size)


class _Bars:
    """Progress bars that show one phase after the other."""

    _UNITS: Final = {"reading": "kB/s", "importing": "codes/s", "generating": "codes/s", "loading": "codes/s"}

    def __init__(self, bars: Progress, size: int | None) -> None:
        self._bars = bars
        self._size = size
        self._tasks: dict[str, Any] = {}

    def __call__(self, phase: str, done: int, of: int | None) -> None:
        total = self._size if phase == "reading" else of
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[phase] = self._bars.add_task(phase, total=total, rate="")
        task_id = self._tasks[phase]
        speed = self._bars.tasks[task_id].speed or 0.0
        unit = self._UNITS.get(phase)
        rate = f"{speed / (1000 if unit == 'kB/s' else 1):,.0f} {unit}" if unit and speed else ""
        self._bars.update(task_id, completed=done, total=total, rate=rate)

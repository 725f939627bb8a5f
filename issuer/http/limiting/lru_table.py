"""A bounded table in memory that drops the subjects used least recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Subject = TypeVar("Subject", bound=Hashable)
Entry = TypeVar("Entry")


class LruTable(Generic[Subject, Entry]):
    """At most `size` entries. A dropped subject gets a new entry when it is used again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Subject, Entry] = OrderedDict()

    def find(self, subject: Subject) -> Entry | None:
        """Return the entry of a subject, which counts as used; None: there is none."""
        entry = self._entries.get(subject)
        if entry is not None:
            self._entries.move_to_end(subject)
        return entry

    def of(self, subject: Subject, make: Callable[[], Entry]) -> Entry:
        """Return the entry of a subject; `make` creates a missing one."""
        entry = self.find(subject)
        if entry is None:
            entry = self._entries[subject] = make()
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return entry

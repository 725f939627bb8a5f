"""Where the pools that requests name are in Redis: computed once per name, without asking any store."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from issuer.engine.engine import Engine

MAX_POOL_REFS: Final = 65_536

Name = TypeVar("Name", bound=Hashable)
Ref = TypeVar("Ref")


class PoolRefs(Generic[Name, Ref]):
    """A cache from a name, as requests spell it, to its PoolRef (or to several of them).

    Nothing in a PoolRef can change, so an entry is never stale. A full cache is cleared as a whole: its entries cost
    microseconds to compute, and an LRU order would cost every request something.
    """

    def __init__(self) -> None:
        self._refs: dict[Name, Ref] = {}
        self.find: Callable[[Name], Ref | None] = self._refs.get
        """Return what is cached for a name. The dictionary's own method, so a look-up costs no Python call."""

    def add(self, engine: Engine, name: Name, ref: Ref) -> Ref:
        """Cache `ref` and return it."""
        # Before Redis was reached the number of partitions is a setting, which the installation may contradict.
        if engine.is_ready:
            if len(self._refs) >= MAX_POOL_REFS:
                self._refs.clear()
            self._refs[name] = ref
        return ref

"""What this process has last read of the recoveries: shown while Postgres is unavailable, with its time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from issuer.storage.postgres import Pool, PostgresUnavailableError

MAX_AGE_S: Final = 3_600.0
MAX_KEPT: Final = 50
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Seen(Generic[Value]):
    """A value, and since when it may have changed; None: it was read now."""

    value: Value
    as_of: datetime | None = None


_KEPT: Final[WeakKeyDictionary[Pool, dict[str, tuple[float, datetime, object]]]] = WeakKeyDictionary()


async def read_or_recall(postgres: Pool, name: str, read: Callable[[], Awaitable[Value]]) -> Seen[Value]:
    """Return what `read` returns; while Postgres is unavailable what it has returned within the last hour.

    Raises PostgresUnavailableError if that is nothing.
    """
    kept = _KEPT.setdefault(postgres, {})
    try:
        value = await read()
    except PostgresUnavailableError:
        if name not in kept or time.monotonic() - kept[name][0] > MAX_AGE_S:
            raise
        found: tuple[float, datetime, object] = kept[name]
        recalled: Value = found[2]  # type: ignore[assignment]
        return Seen(recalled, found[1])
    kept.pop(name, None)
    if len(kept) >= MAX_KEPT:
        kept.pop(next(iter(kept)))
    kept[name] = (time.monotonic(), datetime.now(UTC), value)
    return Seen(value)

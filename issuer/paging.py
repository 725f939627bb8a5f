"""Pages of long lists, by keyset: every page costs the same, and added items do not move the others."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import orjson

from issuer.instants import from_microseconds, to_microseconds

MAX_LIMIT: Final = 1_000
"""Items of one page."""

CHUNK_SIZE: Final = 200
"""Items of a list without pages that are read and shown at a time: a few ms, after which other tasks run."""

_MAX_CURSOR: Final = 512
_INT64: Final = 2**63

Item = TypeVar("Item")


class InvalidCursorError(ValueError):
    """A cursor that no page of this list has returned."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Items of a list, and the cursor of the next page; None: this is the last page."""

    items: list[Item]
    next_cursor: str | None

    @classmethod
    def of(cls, found: Sequence[Item], limit: int, cursor_after: Callable[[Item], str]) -> Page[Item]:
        """Return a page of the first `limit` items. `found` holds up to one more, which shows that a page follows."""
        items = list(found[:limit])
        return cls(items, cursor_after(items[-1]) if len(found) > limit else None)


async def all_items(page: Callable[[str | None], Awaitable[Page[Item]]]) -> AsyncIterator[list[Item]]:
    """Yield the items of every page of a list; `page` returns the page of a cursor."""
    cursor: str | None = None
    while True:
        found = await page(cursor)
        yield found.items
        cursor = found.next_cursor
        if cursor is None:
            return


def encode_cursor(kind: str, position: Sequence[int | UUID | datetime]) -> str:
    """Return an opaque cursor: the kind of list, and the sort key of the last item shown."""
    plain = [_plain(part) for part in position]
    return base64.urlsafe_b64encode(orjson.dumps([kind, *plain])).rstrip(b"=").decode()


def decode_cursor(kind: str, cursor: str, types: Sequence[type]) -> tuple[Any, ...]:
    """Return the sort key inside a cursor of this kind of list. Raises InvalidCursorError for any other text."""
    try:
        if len(cursor) > _MAX_CURSOR:
            raise ValueError("too long")
        text = cursor.encode("ascii")
        parts = orjson.loads(base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
        if not isinstance(parts, list) or parts[:1] != [kind] or len(parts) != len(types) + 1:
            raise ValueError("of another list")
        return tuple(_typed(part, wanted) for part, wanted in zip(parts[1:], types, strict=True))
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise InvalidCursorError("invalid cursor") from error


def _plain(part: int | UUID | datetime) -> int | str:
    if isinstance(part, datetime):
        return to_microseconds(part)
    return str(part) if isinstance(part, UUID) else part


def _typed(part: object, wanted: type) -> int | UUID | datetime:
    if wanted is UUID:
        return UUID(part if isinstance(part, str) else "")
    if isinstance(part, bool) or not isinstance(part, int) or not -_INT64 <= part < _INT64:
        raise ValueError("not a number")
    return from_microseconds(part) if wanted is datetime else part

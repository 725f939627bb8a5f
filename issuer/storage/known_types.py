"""Connections that take from earlier ones of this process what asyncpg has to know about types of Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

MAX_SYSTEM_OID: Final = 9_999
"""The numbers up to this one are written in the source of Postgres: each is the same type in every database."""

_known: Final[dict[int, asyncpg.Record]] = {}


@dataclass(frozen=True, slots=True)
class _NoStatement:
    """In place of the statement that asked for types: the one that needs them is still prepared."""

    name: str = "none"


class KnowingConnection(asyncpg.Connection):
    """A connection that asks for no type of Postgres itself that an earlier connection of this process has asked for.

    asyncpg knows few array types. For each of the others every connection sends three statements, one of them takes
    longer than most of this program's: half of what the start of a process costs the server.
    """

    async def _introspect_types(self, typeoids: Sequence[int], timeout: float | None) -> Any:
        if set(typeoids) <= _known.keys():
            return list(_known.values()), _NoStatement()
        types, statement = await super()._introspect_types(typeoids, timeout)  # type: ignore[misc]
        # In the order in which they depend on each other.
        _known.update((one["oid"], one) for one in types if one["oid"] <= MAX_SYSTEM_OID)
        return types, statement

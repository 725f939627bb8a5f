"""Lists that are yielded in chunks, as one list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

Item = TypeVar("Item")


async def gathered(chunks: AsyncIterator[list[Item]]) -> list[Item]:
    return [item async for chunk in chunks for item in chunk]

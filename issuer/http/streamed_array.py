"""Long JSON arrays in chunks: other requests are answered between them, and memory does not grow with the array."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

import orjson
from starlette.responses import Response, StreamingResponse

from issuer.http.operations import RequestContext

Item = TypeVar("Item")


async def array_response(
    context: RequestContext,
    chunks: AsyncGenerator[list[Item]],
    show: Callable[[Item], Any],
    *,
    before: bytes = b"",
    after: bytes = b"",
) -> Response:
    """Return all items as one JSON array, between the bytes `before` and `after`.

    The first chunk is read at once, so that a failure there is answered. A later one breaks the response off: its end
    is missing. Each further chunk holds a slot of operations while it is read, and none while it is sent.
    """
    first: list[Item] = await anext(chunks, [])
    second = await anext(chunks, None)
    start = before + b"[" + _items(first, show)
    if second is None:
        return Response(start + b"]" + after, media_type="application/json")

    async def pieces(chunk: list[Item] | None) -> AsyncIterator[bytes]:
        yield start
        while chunk is not None:
            yield b"," + _items(chunk, show)
            async with context.services.operation(context.caller.tenant):
                chunk = await anext(chunks, None)
        yield b"]" + after

    return StreamingResponse(pieces(second), media_type="application/json")


def _items(chunk: list[Item], show: Callable[[Item], Any]) -> bytes:
    return orjson.dumps([show(item) for item in chunk])[1:-1]

"""The end of tasks that talk to a store."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_AGAIN_S: Final = 1.0


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and return once they have ended, however they do. Their results and exceptions are dropped.

    Repeated: in Python 3.11 the `wait_for` of the drivers swallows a cancellation that comes together with a reply.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
        for task in done:
            # Without this look asyncio reports the exception as one that was never retrieved.
            if not task.cancelled():
                task.exception()

"""Process deliveries of shops that the API has stored and not processed: it was killed, or could not yet."""

from __future__ import annotations

from functools import partial
from typing import Final

from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.hooks.inbox import TASK
from issuer.loyalty.hooks.processing import HookProcessor
from issuer.storage.postgres import unavailable_translated
from issuer.storage.stores import Stores
from issuer.storage.task_rows import RowWork

MAX_ROWS: Final = 10_000

# The API processes a delivery as soon as it is answered.
_LEFT: Final = """
SELECT id FROM hook_inbox WHERE state = 'received' AND received_at < clock_timestamp() - make_interval(secs => $1)
ORDER BY id LIMIT $2"""


async def process_inbox(stores: Stores, executor: LoyaltyExecutor, rows: RowWork, *, older_than_s: float = 3.0) -> None:
    """Process what is left, each delivery by itself: one that cannot be processed does not hold up the others."""
    processor = HookProcessor(stores.postgres, executor)
    await processor.wake_waiting()
    async with unavailable_translated():
        left = [str(row["id"]) for row in await stores.postgres.fetch(_LEFT, older_than_s, MAX_ROWS)]
    for row in await rows.due(TASK, dict.fromkeys(left, 0), complete=len(left) < MAX_ROWS):
        await rows.work(TASK, row, partial(processor.process, int(row)))

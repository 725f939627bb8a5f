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

# The API processes a delivery as soon as it is answered. Those that have failed come last, by their next attempt: the
# many of a paused program leave the place to others.
_LEFT: Final = """
SELECT i.id FROM hook_inbox i LEFT JOIN task_rows t ON t.task = $1 AND t.row_id = i.id::text
WHERE i.state = 'received' AND i.received_at < clock_timestamp() - make_interval(secs => $2)
ORDER BY t.retry_at NULLS FIRST, i.id LIMIT $3"""


async def process_inbox(stores: Stores, executor: LoyaltyExecutor, rows: RowWork, *, older_than_s: float = 3.0) -> None:
    """Process what is left, each delivery by itself: one that cannot be processed does not hold up the others."""
    processor = HookProcessor(stores.postgres, executor)
    await processor.wake_waiting()
    async with unavailable_translated():
        left = [str(row["id"]) for row in await stores.postgres.fetch(_LEFT, TASK, older_than_s, MAX_ROWS)]
    for row in await rows.due(TASK, dict.fromkeys(left, 0), complete=len(left) < MAX_ROWS):
        await rows.work(TASK, row, partial(processor.process, int(row)))

"""The time between fence and decision, in which every living process settles what it has received."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from issuer.journal.journal import find_tokens, host_name
from issuer.registration.registrar import HEARTBEATS_TO_WAIT
from issuer.registration.registrations import find_open
from issuer.registration.replay import settle_dead
from issuer.settings import Settings
from issuer.storage.ending import end_tasks
from issuer.storage.lineage import refuse_unknown
from issuer.storage.postgres import Connection

WAIT_LIMIT_S: Final = 15.0
"""How long a process that reports, but does not settle, keeps a recovery waiting."""
_POLL_S: Final = 0.02


async def hear_processes(
    settings: Settings, postgres: Connection, installation: UUID, lost: tuple[int, int], *, epoch: int
) -> None:
    """Wait until every living process was heard of, and for two heartbeats in any case. Settle the dead of this host.

    In two heartbeats each process that reaches Postgres finds the fence, also one of which Postgres does not know. One
    whose registration is known is waited for until it is settled, or the process has been silent for a while.

    `epoch`: of the fence. Behind a later one nothing is settled here: FencedOffError. Raises IncidentError when
    Postgres does not know a token that the journals of this host keep.
    """
    if settings.journals is not None:
        # Journals that were removed are known by the token that their directory keeps.
        tokens = find_tokens(settings.journals, installation)
        await refuse_unknown(postgres, tokens, f"the receipt journals of {host_name()}")
    loop = asyncio.get_running_loop()
    heard_at, limit = loop.time() + HEARTBEATS_TO_WAIT * settings.heartbeat_ms / 1000, loop.time() + WAIT_LIMIT_S
    dead = asyncio.create_task(settle_dead(settings, installation, epoch=epoch), name="settle-dead")
    try:
        # A process may report for the first time meanwhile, such as after a restart of Postgres.
        while loop.time() < heard_at or (await _is_awaited(postgres, lost) and loop.time() < limit):
            await asyncio.sleep(_POLL_S)
        while not dead.done():
            await asyncio.wait([dead], timeout=1.0)
            await postgres.execute("SELECT")
        dead.result()
    finally:
        await end_tasks(dead)


async def _is_awaited(postgres: Connection, lost: tuple[int, int]) -> bool:
    # Each look also shows Postgres, and so the others, that this recovery is not frozen.
    return any(found.is_alive for found in await find_open(postgres, *lost))

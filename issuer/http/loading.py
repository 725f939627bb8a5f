"""The slot and the time limit of work that adds codes: uploads, campaigns, generation within a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from issuer.http.limiting.fair_slots import LOAD_WAIT_S, Tenant
from issuer.http.problems.problem import ProblemError
from issuer.http.services import Services
from issuer.settings import Settings

TOO_SLOW: Final = ProblemError(
    503,
    "adding the codes took too long",
    "load_timeout",
    # The time may end behind the commit: the worker then loads into Redis what was stored.
    detail="it is open whether the codes were added: the same request again adds none of them twice",
    headers={"Retry-After": "60"},
)


@asynccontextmanager
async def loading(services: Services, tenant: Tenant) -> AsyncIterator[None]:
    """Hold a slot of loads for the block, which is cancelled after `upload_timeout_s`.

    Raises ProblemError: 503 or 429 if no slot is free for LOAD_WAIT_S, 503 when the time is over.
    """
    async with services.slots.loads.hold(tenant, wait_s=LOAD_WAIT_S), time_limited(services.settings):
        yield


@asynccontextmanager
async def time_limited(settings: Settings) -> AsyncIterator[None]:
    """Cancel the block after `upload_timeout_s`. Raises ProblemError (503) then."""
    try:
        async with asyncio.timeout(settings.upload_timeout_s) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise TOO_SLOW from None

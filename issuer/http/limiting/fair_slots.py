"""Fair slots: a bounded number of places for work of one kind in one process, shared by tenants.

A tenant gets a slot while it holds fewer than are free. Alone it gets half of them, two tenants get a third each, and a
tenant that holds none finds one: no setting has to state how many tenants there are. A refusal states whether all slots
are taken (503) or the tenant has its share (429).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from issuer.access.api_keys import ApiKey
from issuer.http.problems.problem import ProblemError
from issuer.http.slot_kinds import SlotKind, SlotRefusal
from issuer.settings import MAX_LOADS, Settings

MAX_LISTS: Final = 3
"""Campaigns whose issued codes are read whole at the same time."""
LOAD_WAIT_S: Final = 30.0
"""Longest wait for the slot of a load."""
MAX_WAITING_OF_TENANT: Final = 256
MAX_DELIVERIES: Final = 16
"""Deliveries of shops that are received at the same time."""

Tenant = tuple[Hashable, ...]
"""The tenant, and within it, where one tenant serves many, on whose behalf: each has its share of the one before."""


CountRefusal = Callable[[SlotKind, SlotRefusal], None]


class FairSlots:
    """Slots for work of one kind. Refusals are reported to `count`.

    `per_tenant` bounds a tenant in addition to its share.
    """

    def __init__(
        self,
        kind: SlotKind,
        total: int,
        count: CountRefusal,
        *,
        per_tenant: int | None = None,
        retry_after_s: int = 10,
    ) -> None:
        self.kind = kind
        self.total = total
        self.used = 0
        self._per_tenant = total if per_tenant is None else per_tenant
        self._retry_after_s = retry_after_s
        self._count = count
        self._held: dict[Tenant, int] = {}
        # Of each tenant in order of arrival; the tenant that was served last is the last one.
        self._waiting: dict[Tenant, deque[asyncio.Future[None]]] = {}

    def try_take(self, tenant: Tenant) -> SlotRefusal | None:
        """Take a slot, to be returned with `release`. Returns why there is none, which is counted."""
        refusal = self._refusal(tenant)
        if refusal is None:
            self._take(tenant)
        else:
            self._count(self.kind, refusal)
        return refusal

    def release(self, tenant: Tenant) -> None:
        """Release a slot and pass it on to the waiting tenant that holds the fewest."""
        self.used -= 1
        for part in _parts(tenant):
            self._held[part] -= 1
            if not self._held[part]:
                del self._held[part]
        self._pass_on()

    @asynccontextmanager
    async def hold(self, tenant: Tenant, *, wait_s: float = 0.0) -> AsyncIterator[None]:
        """Hold a slot for the block. Raises ProblemError (503 or 429) if none was free for `wait_s`."""
        if tenant in self._waiting or self._refusal(tenant) is not None:
            await self._wait(tenant, wait_s)
        else:
            self._take(tenant)
        try:
            yield
        finally:
            self.release(tenant)

    def problem(self, refusal: SlotRefusal) -> ProblemError:
        """Return the answer to a refused request."""
        headers = {"Retry-After": str(self._retry_after_s)}
        if refusal is SlotRefusal.FULL:
            return ProblemError(503, f"too many {self.kind} at once", "overloaded", headers=headers)
        return ProblemError(429, f"too many {self.kind} of one client at once", "share_used", headers=headers)

    def _refusal(self, tenant: Tenant) -> SlotRefusal | None:
        free = self.total - self.used
        if free <= 0:
            return SlotRefusal.FULL
        if self._held.get(tenant[:1], 0) >= self._per_tenant:
            return SlotRefusal.SHARE
        for part in _parts(tenant):
            held = self._held.get(part, 0)
            if held >= free:
                return SlotRefusal.SHARE
            free -= held
        return None

    def _take(self, tenant: Tenant) -> None:
        self.used += 1
        for part in _parts(tenant):
            self._held[part] = self._held.get(part, 0) + 1

    async def _wait(self, tenant: Tenant, wait_s: float) -> None:
        line = self._waiting.setdefault(tenant, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            if len(line) > MAX_WAITING_OF_TENANT:
                raise TimeoutError
            async with asyncio.timeout(wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # The slot was passed on in the moment in which the waiting ended.
                self.release(tenant)
            elif turn in line:
                line.remove(turn)
                if not line:
                    del self._waiting[tenant]
            if not isinstance(error, TimeoutError):
                raise
            refusal = self._refusal(tenant) or SlotRefusal.SHARE
            self._count(self.kind, refusal)
            raise self.problem(refusal) from None

    def _pass_on(self) -> None:
        while True:
            ready = [tenant for tenant in self._waiting if self._refusal(tenant) is None]
            if not ready:
                return
            tenant = min(ready, key=lambda tenant: self._held.get(tenant[:1], 0))
            line = self._waiting.pop(tenant)
            turn = line.popleft()
            # One whose waiting was cancelled in this very turn of the loop is still in the line.
            if not turn.done():
                self._take(tenant)
                turn.set_result(None)
            if line:
                self._waiting[tenant] = line


@dataclass(frozen=True, slots=True)
class Slots:
    """All slots of one API process but those of its connections.

    An upload holds `uploads` while its file arrives, so a slow client takes none of the `loads`. Work that holds a
    connection to Postgres for long has one of its own; `operations` share the pool.
    """

    uploads: FairSlots
    loads: FairSlots
    reports: FairSlots
    lists: FairSlots
    operations: FairSlots
    streams: FairSlots
    streams_of_address: FairSlots
    deliveries: FairSlots

    @classmethod
    def of(cls, settings: Settings, count: CountRefusal) -> Slots:
        return cls(
            uploads=FairSlots(SlotKind.UPLOADS, settings.max_uploads, count),
            loads=FairSlots(SlotKind.LOADS, MAX_LOADS, count),
            reports=FairSlots(SlotKind.REPORTS, settings.max_reports, count),
            lists=FairSlots(SlotKind.LISTS, MAX_LISTS, count),
            # One connection of the pool listens for notifications.
            operations=FairSlots(SlotKind.OPERATIONS, settings.postgres_pool_size - 1, count, retry_after_s=1),
            streams=FairSlots(SlotKind.STREAMS, settings.max_event_streams, count),
            streams_of_address=FairSlots(SlotKind.STREAMS, settings.max_event_streams, count),
            deliveries=FairSlots(SlotKind.DELIVERIES, MAX_DELIVERIES, count, retry_after_s=5),
        )


def tenant_of(key: ApiKey | None, address: str) -> Tenant:
    """Return the tenant of a request: the client of its key, the key of an operator, or, without a key, the address."""
    if key is None:
        return (address,)
    return (key.id if key.client_id is None else key.client_id,)


def _parts(tenant: Tenant) -> list[Tenant]:
    return [tenant[: length + 1] for length in range(len(tenant))]

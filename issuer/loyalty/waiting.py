"""What waits for a gathered transaction: a queue for each client, and the clients take turns.

So a client that sends more than is carried out, or one order again and again, keeps only itself waiting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from issuer.loyalty.work import Work
from issuer.storage.postgres import PostgresUnavailableError

MAX_WAITING: Final = 4_096
"""Operations that may wait in one process."""
MAX_IN_TRANSACTION: Final = 256


class PointsBusyError(Exception):
    """Too many operations on points wait in this process, or too many of the client. Nothing was done."""

    def __init__(self) -> None:
        super().__init__("too many operations wait")


class WaitingWorks:
    """The works that wait. A client may use as many places as it leaves free, so there is always one for another."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._most = most
        self._count = 0
        self._queues: dict[UUID | None, deque[Work]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, work: Work) -> None:
        """Add a work. Raises PointsBusyError."""
        queue = self._queues.get(work.client_id)
        if (0 if queue is None else len(queue)) >= self._most - self._count:
            raise PointsBusyError
        if queue is None:
            queue = self._queues[work.client_id] = deque()
        queue.append(work)
        self._count += 1

    def gather(self, now: float) -> list[Work]:
        """Take the works of the next transaction, one of each client in turn. Empty only if nothing waits."""
        gathered = _Gathered()
        places = [_Place(queue) for queue in self._queues.values()]
        turns = deque(places)
        while turns and not gathered.is_full:
            place = turns.popleft()
            if place.give(gathered, now):
                turns.append(place)
        for place in places:
            place.queue.extendleft(reversed(place.passed))
        # Another client is the first one of the next transaction: it has its turn even if its work must be alone.
        clients = list(self._queues.items())
        self._queues = {client_id: queue for client_id, queue in (*clients[1:], *clients[:1]) if queue}
        self._count = sum(map(len, self._queues.values()))
        return gathered.works

    def clear(self) -> list[Work]:
        """Take everything that waits."""
        works = [work for queue in self._queues.values() for work in queue]
        self._queues, self._count = {}, 0
        return works


@dataclass(slots=True)
class _Gathered:
    """The works of one transaction."""

    works: list[Work] = field(default_factory=list)
    taken: set[object] = field(default_factory=set)
    blocked: set[int] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        return len(self.works) >= MAX_IN_TRANSACTION or (len(self.works) == 1 and self.works[0].is_alone)

    def join(self, work: Work) -> bool:
        """Add a work unless it must wait for the next transaction."""
        names = set(work.unique())
        fits = self.taken.isdisjoint(names) and self.blocked.isdisjoint(work.account_ids)
        if not fits or (work.is_alone and self.works):
            # So do later works on its accounts: their order is kept.
            self.blocked.update(work.account_ids)
            return False
        self.works.append(work)
        self.taken |= names
        return True


@dataclass(slots=True)
class _Place:
    """The queue of one client, and what was passed over in it."""

    queue: deque[Work]
    passed: list[Work] = field(default_factory=list)

    def give(self, gathered: _Gathered, now: float) -> bool:
        """Give the next work that can join the others; False: there is none, or a search for it would take long."""
        while self.queue and len(self.passed) < MAX_IN_TRANSACTION:
            work = self.queue.popleft()
            if work.answer.done():
                continue  # The request was cancelled. Nothing was done for it.
            if work.give_up_at <= now:
                work.settle(PostgresUnavailableError("no transaction began in time"))
            elif gathered.join(work):
                return True
            else:
                self.passed.append(work)
        return False

"""Customers: they redeem over HTTP without a pause, with and without keys, and remember every answer they got."""

from __future__ import annotations

import asyncio
import bisect
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from tests.faults.door import Door, NotSentError, Response, UnknownOutcomeError
from tests.faults.loop_thread import LoopThread

PATH: Final = "/api/v1/code/redeem"
PAUSE_AFTER_REFUSAL_S: Final = 0.02
RETRIES: Final = 8
REPLAY_SHARE: Final = 0.10
KEYED_SHARE: Final = 0.5
IMPATIENT_SHARE: Final = 0.03


@dataclass(frozen=True, slots=True)
class TrafficShop:
    """A batch, or (`code`) a coupon, as its customers see it. `limits`: (max, window in ms; None is for ever)."""

    name: str
    batch_id: UUID
    clients: tuple[UUID, ...]
    limits: tuple[tuple[int, int | None], ...]
    customers: int
    weight: int = 1
    code: str = ""

    def customer(self, rng: random.Random) -> UUID:
        return UUID(int=self.batch_id.int ^ rng.randrange(self.customers) << 8)


@dataclass(slots=True)
class TrafficWish:
    """One thing that a customer wants: with a key it may be asked for again and again, without one only once."""

    shop: TrafficShop
    client_id: UUID
    customer_id: UUID
    key: str | None

    @property
    def path(self) -> str:
        return f"/coupon/consume/?code={self.shop.code}" if self.shop.code else PATH

    @property
    def body(self) -> bytes:
        if self.shop.code:
            asked = {"client_id": str(self.client_id), "customer_id": str(self.customer_id), "order_id": self.key}
            return json.dumps(asked).encode()
        return json.dumps(
            {"batchid": str(self.shop.batch_id), "clientid": str(self.client_id), "customerid": str(self.customer_id)}
        ).encode()


@dataclass(slots=True)
class TrafficAttempt:
    """One request and what came back. `status` None: sent, and no (whole) answer; 0: not even sent."""

    wish: TrafficWish
    sent_at: float
    status: int | None = None
    answer: str = ""
    """The code of a 200, or the consumption's id; the stable error code of anything else."""
    replayed: bool = False
    done_at: float = 0.0
    in_fault: bool = False


@dataclass(slots=True)
class _Memory:
    """What the customers remember, shared by all of them."""

    attempts: list[TrafficAttempt] = field(default_factory=list)
    in_flight: set[int] = field(default_factory=set)
    keyed: list[TrafficWish] = field(default_factory=list)
    good: int = 0
    refused: Counter[int | str] = field(default_factory=Counter)
    """By status and by error code."""


class Traffic:
    """Many customers at the doors of `ports` (which may change meanwhile), from `start` until `stop`."""

    def __init__(
        self, thread: LoopThread, ports: Sequence[int], shops: Sequence[TrafficShop], seed: str, *, customers: int = 24
    ) -> None:
        self._thread = thread
        self.ports = list(ports)
        self.shops = list(shops)
        self._seed = seed
        self._size = customers
        self._memory = _Memory()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def attempts(self) -> list[TrafficAttempt]:
        return self._memory.attempts

    @property
    def granted(self) -> int:
        """200s so far, replays not counted."""
        return self._memory.good

    def start(self) -> None:
        async def begin() -> None:
            self._stopping = False
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._customer(i), name=f"customer-{i}") for i in range(self._size)]

        self._thread.run(begin())

    def stop(self) -> None:
        """Each customer finishes what it is at."""

        async def end() -> None:
            self._stopping = True
            await asyncio.gather(*self._tasks)

        self._thread.run(end())

    def mark_fault(self) -> int:
        """Notes which requests are in flight at this moment. Returns how many."""

        def mark() -> int:
            for index in self._memory.in_flight:
                self._memory.attempts[index].in_fault = True
            return len(self._memory.in_flight)

        return self._thread.call(mark)

    def wait_granted(self, more: int, limit_s: float = 30.0) -> None:
        """Waits until that many more codes were handed out. Raises TimeoutError."""
        goal, deadline = self.granted + more, time.monotonic() + limit_s
        while self.granted < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.granted + more - goal} of {more} redemptions within {limit_s} s")
            time.sleep(0.005)

    def seconds_to_good(self, since: float) -> float | None:
        """From `since` (time.monotonic) to the first 200 of a request sent after it."""
        begin = bisect.bisect_right(self.attempts, since, key=lambda attempt: attempt.sent_at)
        done = [attempt.done_at for attempt in self.attempts[begin:] if attempt.status == 200]
        return min(done) - since if done else None

    def refused(self, how: int | str) -> int:
        """How many requests were refused with this status or error code so far."""
        return self._memory.refused[how]

    def ask_once(self, wish: TrafficWish) -> TrafficAttempt:
        """One request outside the traffic; it is remembered like all others."""

        async def ask() -> TrafficAttempt:
            door = Door()
            try:
                return await self._ask(door, wish, self.ports[0], 5.0)
            finally:
                door.close()

        return self._thread.run(ask())

    async def _customer(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        door = Door()
        weights = [shop.weight for shop in self.shops]
        serial = 0
        while not self._stopping:
            if self._memory.keyed and rng.random() < REPLAY_SHARE:
                wish = rng.choice(self._memory.keyed)
            else:
                shop = rng.choices(self.shops, weights)[0]
                serial += 1
                key = f"{self._seed}-{number}-{serial}" if rng.random() < KEYED_SHARE else None
                wish = TrafficWish(shop, rng.choice(shop.clients), shop.customer(rng), key)
                if key is not None:
                    self._memory.keyed.append(wish)
            await self._want(door, wish, rng)
        door.close()

    async def _want(self, door: Door, wish: TrafficWish, rng: random.Random) -> None:
        """Asks; with a key again and again until it knows, without one only what surely was not done."""
        for _ in range(RETRIES):
            timeout_s = rng.uniform(0.001, 0.05) if rng.random() < IMPATIENT_SHARE else 4.0
            attempt = await self._ask(door, wish, rng.choice(self.ports), timeout_s)
            if attempt.status not in (None, 0, 503):
                return
            await asyncio.sleep(PAUSE_AFTER_REFUSAL_S * rng.uniform(0.5, 2))
            if (wish.key is None and attempt.status != 0) or self._stopping:
                return

    async def _ask(self, door: Door, wish: TrafficWish, port: int, timeout_s: float) -> TrafficAttempt:
        memory = self._memory
        attempt = TrafficAttempt(wish, time.monotonic())
        index = len(memory.attempts)
        memory.attempts.append(attempt)
        memory.in_flight.add(index)
        headers = {"content-type": "application/json"}
        if wish.key is not None:
            headers["idempotency-key"] = wish.key
        try:
            response = await door.request(port, "POST", wish.path, wish.body, headers, timeout_s=timeout_s)
        except NotSentError as error:
            attempt.status, attempt.answer = 0, str(error)
        except UnknownOutcomeError as error:
            attempt.status, attempt.answer = None, str(error)
        else:
            self._read(attempt, response)
        finally:
            attempt.done_at = time.monotonic()
            memory.in_flight.discard(index)
        return attempt

    def _read(self, attempt: TrafficAttempt, response: Response) -> None:
        attempt.status = response.status
        said = response.json()
        attempt.answer = str(said.get("consumption_id") or said.get("code", ""))
        attempt.replayed = response.headers.get("idempotency-replayed") == "true"
        if response.status != 200:
            self._memory.refused.update((attempt.status, attempt.answer))
        elif not attempt.replayed:
            self._memory.good += 1

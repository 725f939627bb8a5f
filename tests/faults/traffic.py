"""Traffic: customers redeem over HTTP without a pause, with and without keys, and every response is recorded."""

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

from tests.faults.customer_connection import CustomerConnection, NotSentError, Response, UnknownOutcomeError
from tests.faults.loop_thread import LoopThread

PARTITIONS: Final = 4
PATH: Final = "/api/v1/code/redeem"
PAUSE_AFTER_REFUSAL_S: Final = 0.02
RETRIES: Final = 8
REPLAY_SHARE: Final = 0.10
KEYED_SHARE: Final = 0.5
IMPATIENT_SHARE: Final = 0.03


@dataclass(frozen=True, slots=True)
class TrafficBatch:
    """A batch, or with `code` a coupon, as its customers see it. `limits`: (max, window in ms; None: indefinite)."""

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
class TrafficRequest:
    """One redemption that a customer requests. With a key it may be repeated, without one it is sent once."""

    batch: TrafficBatch
    client_id: UUID
    customer_id: UUID
    key: str | None

    @property
    def path(self) -> str:
        return f"/coupon/consume/?code={self.batch.code}" if self.batch.code else PATH

    @property
    def body(self) -> bytes:
        if self.batch.code:
            fields = {"client_id": str(self.client_id), "customer_id": str(self.customer_id), "order_id": self.key}
            return json.dumps(fields).encode()
        return json.dumps(
            {"batchid": str(self.batch.batch_id), "clientid": str(self.client_id), "customerid": str(self.customer_id)}
        ).encode()


@dataclass(slots=True)
class TrafficAttempt:
    """One attempt and its response. `status` None: sent, without a complete response; 0: not sent."""

    request: TrafficRequest
    sent_at: float
    status: int | None = None
    answer: str = ""
    """The code or consumption id of a 200, otherwise the error code."""
    replayed: bool = False
    done_at: float = 0.0
    in_fault: bool = False


@dataclass(slots=True)
class _TrafficRecord:
    """The attempts of all customers."""

    attempts: list[TrafficAttempt] = field(default_factory=list)
    in_flight: set[int] = field(default_factory=set)
    keyed: list[TrafficRequest] = field(default_factory=list)
    granted: int = 0
    refused: Counter[int | str] = field(default_factory=Counter)
    """By status and by error code."""


class Traffic:
    """Many customers that send requests to `ports` (which may change meanwhile), from `start` until `stop`."""

    def __init__(
        self,
        thread: LoopThread,
        ports: Sequence[int],
        batches: Sequence[TrafficBatch],
        seed: str,
        *,
        customers: int = 24,
    ) -> None:
        self._thread = thread
        self.ports = list(ports)
        self.batches = list(batches)
        self._seed = seed
        self._size = customers
        self._record = _TrafficRecord()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def attempts(self) -> list[TrafficAttempt]:
        return self._record.attempts

    @property
    def granted(self) -> int:
        """Return the number of 200s so far, without replays."""
        return self._record.granted

    def start(self) -> None:
        async def begin() -> None:
            self._stopping = False
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._customer(i), name=f"customer-{i}") for i in range(self._size)]

        self._thread.run(begin())

    def stop(self) -> None:
        """Stop; each customer finishes its present request."""

        async def end() -> None:
            self._stopping = True
            await asyncio.gather(*self._tasks)

        self._thread.run(end())

    def mark_fault(self) -> int:
        """Mark the requests that are in flight at this moment. Return their number."""

        def mark() -> int:
            for index in self._record.in_flight:
                self._record.attempts[index].in_fault = True
            return len(self._record.in_flight)

        return self._thread.call(mark)

    def wait_granted(self, more: int, limit_s: float = 30.0) -> None:
        """Wait until `more` further codes are issued. Raises TimeoutError."""
        goal, deadline = self.granted + more, time.monotonic() + limit_s
        while self.granted < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.granted + more - goal} of {more} redemptions within {limit_s} s")
            time.sleep(0.005)

    def seconds_to_code(self, since: float) -> float | None:
        """Return the time from `since` (time.monotonic) to the first 200 of a request sent after it."""
        begin = bisect.bisect_right(self.attempts, since, key=lambda attempt: attempt.sent_at)
        done = [attempt.done_at for attempt in self.attempts[begin:] if attempt.status == 200]
        return min(done) - since if done else None

    def refused(self, how: int | str) -> int:
        """Return the number of requests refused with this status or error code so far."""
        return self._record.refused[how]

    def send_once(self, request: TrafficRequest) -> TrafficAttempt:
        """Send one request outside the traffic; it is recorded like all others."""

        async def send() -> TrafficAttempt:
            connection = CustomerConnection()
            try:
                return await self._send(connection, request, self.ports[0], 5.0)
            finally:
                connection.close()

        return self._thread.run(send())

    async def _customer(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        connection = CustomerConnection()
        weights = [batch.weight for batch in self.batches]
        serial = 0
        while not self._stopping:
            if self._record.keyed and rng.random() < REPLAY_SHARE:
                request = rng.choice(self._record.keyed)
            else:
                batch = rng.choices(self.batches, weights)[0]
                serial += 1
                key = f"{self._seed}-{number}-{serial}" if rng.random() < KEYED_SHARE else None
                request = TrafficRequest(batch, rng.choice(batch.clients), batch.customer(rng), key)
                if key is not None:
                    self._record.keyed.append(request)
            await self._send_until_known(connection, request, rng)
        connection.close()

    async def _send_until_known(
        self, connection: CustomerConnection, request: TrafficRequest, rng: random.Random
    ) -> None:
        """Send a request; repeat it until its outcome is known with a key, and without one only if it was not sent."""
        for _ in range(RETRIES):
            timeout_s = rng.uniform(0.001, 0.05) if rng.random() < IMPATIENT_SHARE else 4.0
            attempt = await self._send(connection, request, rng.choice(self.ports), timeout_s)
            if attempt.status not in (None, 0, 503):
                return
            await asyncio.sleep(PAUSE_AFTER_REFUSAL_S * rng.uniform(0.5, 2))
            if (request.key is None and attempt.status != 0) or self._stopping:
                return

    async def _send(
        self, connection: CustomerConnection, request: TrafficRequest, port: int, timeout_s: float
    ) -> TrafficAttempt:
        record = self._record
        attempt = TrafficAttempt(request, time.monotonic())
        index = len(record.attempts)
        record.attempts.append(attempt)
        record.in_flight.add(index)
        headers = {"content-type": "application/json"}
        if request.key is not None:
            headers["idempotency-key"] = request.key
        try:
            response = await connection.request(port, "POST", request.path, request.body, headers, timeout_s=timeout_s)
        except NotSentError as error:
            attempt.status, attempt.answer = 0, str(error)
        except UnknownOutcomeError as error:
            attempt.status, attempt.answer = None, str(error)
        else:
            self._read(attempt, response)
        finally:
            attempt.done_at = time.monotonic()
            record.in_flight.discard(index)
        return attempt

    def _read(self, attempt: TrafficAttempt, response: Response) -> None:
        attempt.status = response.status
        fields = response.json()
        attempt.answer = str(fields.get("consumption_id") or fields.get("code", ""))
        attempt.replayed = response.headers.get("idempotency-replayed") == "true"
        if response.status != 200:
            self._record.refused.update((attempt.status, attempt.answer))
        elif not attempt.replayed:
            self._record.granted += 1

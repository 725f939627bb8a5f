"""Retries with keys: callers repeat a redemption, as after a time-out, and must get the same code."""

from __future__ import annotations

import random
from typing import ClassVar
from uuid import uuid4

from locust import between, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Kind, ScenarioResults
from loadtest.target_issuer import TargetBatch, TargetIssuer

CODES = 50_000
OTHER_CLIENT_EVERY = 10


class Retries(Customer):
    """Repeat each redemption with its Idempotency-Key; sometimes reuse the key for another client."""

    results = ScenarioResults("retries with keys", frozenset({Kind.GRANTED, Kind.REPLAYED, Kind.KEY_REUSED}))
    wait_time = between(0.005, 0.02)
    weight = 2
    batch: ClassVar[TargetBatch]

    @classmethod
    def prepare(cls, issuer: TargetIssuer) -> None:
        cls.batch = issuer.make_batch("retries", CODES, {"maxpercustomer": 1})

    @task  # type: ignore[untyped-decorator]
    def redeem_again(self) -> None:
        customer_id, key = uuid4(), str(uuid4())
        kind, code = self.redeem(self.batch, customer_id, key=key)
        if kind is not Kind.GRANTED:
            return
        for _ in range(random.randint(1, 3)):
            kind, again = self.redeem(self.batch, customer_id, key=key)
            if kind is not Kind.REPLAYED or again != code:
                self.results.add_problem("a repeated request did not return the same code")
        if random.randrange(OTHER_CLIENT_EVERY) == 0:
            kind, _ = self.redeem(self.batch, customer_id, key=key, client_id=uuid4())
            if kind is not Kind.KEY_REUSED:
                self.results.add_problem("a key was accepted for another client")

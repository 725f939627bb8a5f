"""Many batches: customers redeem from random batches at the pace of people."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar
from uuid import uuid4

from locust import between, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Kind, ScenarioResults
from loadtest.target_issuer import TargetBatch, TargetIssuer

BATCHES = 30
CODES = 2_000
LIMITS = {"limits": [{"max": 1, "seconds": 60}, {"max": 3, "seconds": 2_592_000}]}


class ManyBatches(Customer):
    """Redeem for a new customer from a random batch each time."""

    results = ScenarioResults("many batches", frozenset({Kind.GRANTED}))
    wait_time = between(0.01, 0.05)
    weight = 2
    batches: ClassVar[Sequence[TargetBatch]]

    @classmethod
    def prepare(cls, issuer: TargetIssuer) -> None:
        cls.batches = issuer.make_batches("many batches", BATCHES, CODES, LIMITS)

    @task  # type: ignore[untyped-decorator]
    def redeem_somewhere(self) -> None:
        self.redeem(random.choice(self.batches), uuid4())

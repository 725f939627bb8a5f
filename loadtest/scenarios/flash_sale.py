"""Flash sale: far more customers than codes, all at the same time, one code each."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

from locust import constant, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Kind, ScenarioResults
from loadtest.target_issuer import TargetBatch, TargetIssuer

CODES = 500


class FlashSale(Customer):
    """Redeem until the batch is sold out, and continue to send requests."""

    results = ScenarioResults("flash sale", frozenset({Kind.GRANTED, Kind.SOLD_OUT}))
    wait_time = constant(0)
    weight = 4
    batch: ClassVar[TargetBatch]

    @classmethod
    def prepare(cls, issuer: TargetIssuer) -> None:
        cls.batch = issuer.make_batch("flash sale", CODES, {"maxpercustomer": 1})

    @task  # type: ignore[untyped-decorator]
    def buy(self) -> None:
        kind, _ = self.redeem(self.batch, uuid4())
        granted = self.results.kinds[Kind.GRANTED]
        if granted > CODES:
            self.results.add_problem("more codes were granted than the batch has")
        # At most one response per user can have been received earlier and not be counted yet.
        if kind is Kind.SOLD_OUT and granted < CODES - self.environment.runner.user_count:
            self.results.add_problem("sold out while codes were left")

"""One customer hammering: the same customer on many connections, with a limit of three codes."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID, uuid4

from locust import constant, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Kind, ScenarioResults
from loadtest.target_issuer import TargetBatch, TargetIssuer

ALLOWED = 3


class Hammering(Customer):
    """All users of this scenario redeem as the same customer."""

    results = ScenarioResults("one customer hammering", frozenset({Kind.GRANTED, Kind.LIMIT_REACHED}))
    wait_time = constant(0)
    weight = 2
    batch: ClassVar[TargetBatch]
    customer_id: ClassVar[UUID]

    @classmethod
    def prepare(cls, issuer: TargetIssuer) -> None:
        cls.batch = issuer.make_batch("hammering", 1_000, {"maxpercustomer": ALLOWED, "timelimit": 30})
        cls.customer_id = uuid4()

    @task  # type: ignore[untyped-decorator]
    def hammer(self) -> None:
        self.redeem(self.batch, self.customer_id)
        if self.results.kinds[Kind.GRANTED] > ALLOWED:
            self.results.add_problem("the limit was exceeded")

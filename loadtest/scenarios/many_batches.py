"""Many batches: customers who redeem from any of them, at the pace of people."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar
from uuid import uuid4

from locust import between, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Account, Kind
from loadtest.shop import ShopBatch, ShopInstallation

BATCHES = 30
CODES = 2_000
LIMITS = {"limits": [{"max": 1, "seconds": 60}, {"max": 3, "seconds": 2_592_000}]}


class ManyBatches(Customer):
    """Every redemption is of a new customer and of a batch chosen at random."""

    account = Account("many batches", frozenset({Kind.GRANTED}))
    wait_time = between(0.01, 0.05)
    weight = 2
    offers: ClassVar[Sequence[ShopBatch]]

    @classmethod
    def prepare(cls, shop: ShopInstallation) -> None:
        cls.offers = shop.make_batches("many batches", BATCHES, CODES, LIMITS)

    @task  # type: ignore[untyped-decorator]
    def redeem_somewhere(self) -> None:
        self.redeem(random.choice(self.offers), uuid4())

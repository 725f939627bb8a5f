"""One customer hammering: the same customer from many connections, who may have three codes."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID, uuid4

from locust import constant, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Account, Kind
from loadtest.shop import ShopBatch, ShopInstallation

ALLOWED = 3


class Hammering(Customer):
    """All users of this scenario are one and the same customer."""

    account = Account("one customer hammering", frozenset({Kind.GRANTED, Kind.LIMIT_REACHED}))
    wait_time = constant(0)
    weight = 2
    offer: ClassVar[ShopBatch]
    customer_id: ClassVar[UUID]

    @classmethod
    def prepare(cls, shop: ShopInstallation) -> None:
        cls.offer = shop.make_batch("hammering", 1_000, {"maxpercustomer": ALLOWED, "timelimit": 30})
        cls.customer_id = uuid4()

    @task  # type: ignore[untyped-decorator]
    def hammer(self) -> None:
        self.redeem(self.offer, self.customer_id)
        if self.account.kinds[Kind.GRANTED] > ALLOWED:
            self.account.complain("the limit was exceeded")

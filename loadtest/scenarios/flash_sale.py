"""Flash sale: far more customers than codes, all at once, each wants one."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

from locust import constant, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Account, Kind
from loadtest.shop import ShopBatch, ShopInstallation

CODES = 500


class FlashSale(Customer):
    """Redeems until the codes are gone, and goes on asking."""

    account = Account("flash sale", frozenset({Kind.GRANTED, Kind.SOLD_OUT}))
    wait_time = constant(0)
    weight = 4
    offer: ClassVar[ShopBatch]

    @classmethod
    def prepare(cls, shop: ShopInstallation) -> None:
        cls.offer = shop.make_batch("flash sale", CODES, {"maxpercustomer": 1})

    @task  # type: ignore[untyped-decorator]
    def buy(self) -> None:
        kind, _ = self.redeem(self.offer, uuid4())
        granted = self.account.kinds[Kind.GRANTED]
        if granted > CODES:
            self.account.complain("more codes granted than there are")
        # Requests that were answered before ours and not yet counted are as many as there are users, at most.
        if kind is Kind.SOLD_OUT and granted < CODES - self.environment.runner.user_count:
            self.account.complain("sold out while there were codes")

"""Retries with keys: clients that send a redemption again, as after a time-out, and must get the same code."""

from __future__ import annotations

import random
from typing import ClassVar
from uuid import uuid4

from locust import between, task

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.outcome import Account, Kind
from loadtest.shop import ShopBatch, ShopInstallation

CODES = 50_000
OTHER_CLIENT_EVERY = 10


class Retries(Customer):
    """Each redemption has an Idempotency-Key and is repeated; now and then the key is used for another client."""

    account = Account("retries with keys", frozenset({Kind.GRANTED, Kind.REPLAYED, Kind.KEY_REUSED}))
    wait_time = between(0.005, 0.02)
    weight = 2
    offer: ClassVar[ShopBatch]

    @classmethod
    def prepare(cls, shop: ShopInstallation) -> None:
        cls.offer = shop.make_batch("retries", CODES, {"maxpercustomer": 1})

    @task  # type: ignore[untyped-decorator]
    def redeem_again(self) -> None:
        customer_id, key = uuid4(), str(uuid4())
        kind, code = self.redeem(self.offer, customer_id, key=key)
        if kind is not Kind.GRANTED:
            return
        for _ in range(random.randint(1, 3)):
            kind, again = self.redeem(self.offer, customer_id, key=key)
            if kind is not Kind.REPLAYED or again != code:
                self.account.complain("a repeat was not answered with the same code")
        if random.randrange(OTHER_CLIENT_EVERY) == 0:
            kind, _ = self.redeem(self.offer, customer_id, key=key, client_id=uuid4())
            if kind is not Kind.KEY_REUSED:
                self.account.complain("a key was taken for another client")

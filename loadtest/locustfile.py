"""Customers of all kinds at once, against a running issuer:

    locust -f loadtest/locustfile.py --headless --users 40 --spawn-rate 40 --run-time 20s

It finds the issuer that `make up` has started in this directory, or ISSUER_URL with ISSUER_API_KEY, and makes its own
batches there. Refusals that a scenario is about count as successes. At the end it prints what each scenario was
answered, and ends with 1 unless everything that it expects came, and nothing else.
"""

from __future__ import annotations

from typing import Any

from locust import events

from loadtest.scenarios.customer import Customer
from loadtest.scenarios.flash_sale import FlashSale
from loadtest.scenarios.hammering import Hammering
from loadtest.scenarios.many_batches import ManyBatches
from loadtest.scenarios.outcome import tally
from loadtest.scenarios.retries import Retries
from loadtest.shop import NoShopError, ShopInstallation

__all__ = ["FlashSale", "Hammering", "ManyBatches", "Retries"]

SCENARIOS: tuple[type[Customer], ...] = (FlashSale, Hammering, ManyBatches, Retries)


# When locust starts, not when the test does: making batches would count as running time.
@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Any, **_: Any) -> None:
    try:
        Customer.shop = ShopInstallation.find()
        for scenario in SCENARIOS:
            if scenario in environment.user_classes:
                scenario.prepare(Customer.shop)
    except NoShopError as error:
        raise SystemExit(f"error: {error}") from None
    environment.host = Customer.shop.url


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Any, **_: Any) -> None:
    text, good = tally(scenario.account for scenario in SCENARIOS if scenario in environment.user_classes)
    print(f"\n{text}")
    environment.process_exit_code = 0 if good else 1

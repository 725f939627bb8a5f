"""All load scenarios at the same time, against a running issuer:

    locust -f loadtest/locustfile.py --headless --users 40 --spawn-rate 40 --run-time 20s

The target is the issuer that `make up` started in this directory, or ISSUER_URL with ISSUER_API_KEY; the scenarios
create their own batches there. Refusals that a scenario expects count as successes. At the end the responses of each
scenario are printed; the exit status is 1 unless every expected kind of response occurred, and no other.
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
from loadtest.target_issuer import IssuerNotFoundError, TargetIssuer

__all__ = ["FlashSale", "Hammering", "ManyBatches", "Retries"]

SCENARIOS: tuple[type[Customer], ...] = (FlashSale, Hammering, ManyBatches, Retries)


# On start of locust, not of the test: the time to create batches must not count as running time.
@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Any, **_: Any) -> None:
    try:
        Customer.issuer = TargetIssuer.find()
        for scenario in SCENARIOS:
            if scenario in environment.user_classes:
                scenario.prepare(Customer.issuer)
    except IssuerNotFoundError as error:
        raise SystemExit(f"error: {error}") from None
    environment.host = Customer.issuer.url


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Any, **_: Any) -> None:
    text, good = tally(scenario.results for scenario in SCENARIOS if scenario in environment.user_classes)
    print(f"\n{text}")
    environment.process_exit_code = 0 if good else 1

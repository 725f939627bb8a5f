"""What all customers of all scenarios have in common: they redeem, and what they are answered is accounted for."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

import orjson
from locust.contrib.fasthttp import FastHttpUser

from loadtest.drivers import REDEEM_PATH
from loadtest.scenarios.outcome import Account, Kind, kind_of
from loadtest.shop import ShopBatch, ShopInstallation


class Customer(FastHttpUser):  # type: ignore[misc]
    """One locust user. A scenario is a subclass with an account, a `prepare` that makes its batches, and tasks."""

    abstract = True
    account: ClassVar[Account]
    shop: ClassVar[ShopInstallation]

    @classmethod
    def prepare(cls, shop: ShopInstallation) -> None:
        """Makes what the scenario redeems from. Called once before the load starts."""
        raise NotImplementedError

    def redeem(
        self, offer: ShopBatch, customer_id: UUID, *, key: str | None = None, client_id: UUID | None = None
    ) -> tuple[Kind | str, str]:
        """One request. Returns what became of it, and the code if there is one."""
        headers = dict(self.shop.headers)
        if key is not None:
            headers["Idempotency-Key"] = key
        body = offer.request(customer_id, client_id=client_id)
        with self.client.post(
            REDEEM_PATH, json=body, headers=headers, name=self.account.name, catch_response=True
        ) as response:
            kind, code = self._judge(response)
            expected = self.account.note(kind)
            if kind is Kind.GRANTED:
                expected = self.account.note_code(str(offer.batch_id), code) and expected
            if expected:
                response.success()
            else:
                response.failure(str(kind))
        return kind, code

    @staticmethod
    def _judge(response: Any) -> tuple[Kind | str, str]:
        if response.status_code == 0:
            return f"no answer: {response.error}", ""
        try:
            body = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            body = None
        kind = kind_of(response.status_code, response.headers, body)
        return kind, body["code"] if kind in (Kind.GRANTED, Kind.REPLAYED) else ""

"""The base class of the customers of all scenarios: redeem, and record the responses."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

import orjson
from locust.contrib.fasthttp import FastHttpUser

from loadtest.drivers import REDEEM_PATH
from loadtest.scenarios.outcome import Kind, ScenarioResults, kind_of
from loadtest.target_issuer import TargetBatch, TargetIssuer


class Customer(FastHttpUser):  # type: ignore[misc]
    """One locust user. A scenario is a subclass with `results`, a `prepare` that makes its batches, and tasks."""

    abstract = True
    results: ClassVar[ScenarioResults]
    issuer: ClassVar[TargetIssuer]

    @classmethod
    def prepare(cls, issuer: TargetIssuer) -> None:
        """Create the batches of the scenario. Called once before the load starts."""
        raise NotImplementedError

    def redeem(
        self, batch: TargetBatch, customer_id: UUID, *, key: str | None = None, client_id: UUID | None = None
    ) -> tuple[Kind | str, str]:
        """Send one redemption. Return the kind of the response and the code, which is empty if none was issued."""
        headers = dict(self.issuer.headers)
        if key is not None:
            headers["Idempotency-Key"] = key
        body = batch.request(customer_id, client_id=client_id)
        with self.client.post(
            REDEEM_PATH, json=body, headers=headers, name=self.results.name, catch_response=True
        ) as response:
            kind, code = self._judge(response)
            expected = self.results.add(kind)
            if kind is Kind.GRANTED:
                expected = self.results.add_code(str(batch.batch_id), code) and expected
            if expected:
                response.success()
            else:
                response.failure(str(kind))
        return kind, code

    @staticmethod
    def _judge(response: Any) -> tuple[Kind | str, str]:
        if response.status_code == 0:
            return f"no response: {response.error}", ""
        try:
            body = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            body = None
        kind = kind_of(response.status_code, response.headers, body)
        return kind, body["code"] if kind in (Kind.GRANTED, Kind.REPLAYED) else ""

"""IssueCoupon, the hot route of campaigns: ordinary calls.

An ordinary call is an uncompressed Connect call in JSON or binary; it costs as little as a redemption. All other calls
(gRPC-Web, compressed bodies, headers that the Connect protocol refuses) are served by the library, which uses the same
`IssuePolicy` (`connect_service`).
"""

from __future__ import annotations

import asyncio
import re
from typing import ClassVar, Final

from issuer.access.api_keys import Scope
from issuer.campaigns.cache import KnownCampaign
from issuer.contract.keys import NO_API_KEY
from issuer.engine.calls import Answer
from issuer.http.auth import missing_key
from issuer.http.campaigns.answers import (
    CRASHED,
    TIMED_OUT,
    UNKNOWN_WIRES,
    Failure,
    answer_wire,
    failure_wire,
)
from issuer.http.campaigns.codecs import read_campaign_id
from issuer.http.campaigns.policy import IssuePolicy
from issuer.http.edge.exchange import Connection
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.hot_exchange import HotExchange, HotRoute
from issuer.http.idempotency import read_idempotency_key
from issuer.http.metrics.exposition import INVALID
from issuer.http.problems.problem import ProblemError, invalid
from issuer.http.services import Services
from issuer.http.wire import Wire
from issuer.ids import parse_uuid

ISSUE_PATH: Final = "/coupon.CouponService/IssueCoupon"

_TIMEOUT_MS: Final = re.compile(rb"[0-9]{1,10}")
_CODECS: Final = {
    b"application/json": True,
    b"application/json; charset=utf-8": True,
    b"application/proto": False,
}
"""Content types of an ordinary call, and whether its codec is JSON."""


class IssueRoute(HotRoute):
    """The route, with the policy that it shares with the library."""

    path: ClassVar[str] = ISSUE_PATH

    def __init__(self, policy: IssuePolicy) -> None:
        super().__init__()
        self.policy = policy

    def exchange(self, connection: Connection, fields: HeaderFields) -> HotExchange | None:
        json = _CODECS.get(fields.get(b"content-type", b""))
        if json is None or b"content-encoding" in fields:
            return None
        if fields.get(b"connect-protocol-version", b"1") != b"1":
            return None
        timeout = fields.get(b"connect-timeout-ms")
        if timeout is None:
            exchange = IssueExchange(connection, fields)
        elif _TIMEOUT_MS.fullmatch(timeout) is None:
            return None
        else:
            exchange = TimedIssueExchange(connection, fields)
        exchange.route, exchange.json = self, json
        return exchange


class IssueExchange(HotExchange):
    """One code of a campaign. `json`: the codec of the call is JSON."""

    __slots__ = ("json",)

    json: bool
    route: IssueRoute
    scopes = frozenset(Scope)

    def access_refusal(self, services: Services) -> ProblemError | None:
        """Refuse a key that is not valid. Whether a key is needed depends on the campaign, which the body names."""
        if self.key is None and b"authorization" in self.fields:
            return missing_key(services, self.fields)
        return None

    def receive(self, body: bytes) -> None:
        services = self.services
        assert services is not None
        try:
            campaign_id = read_campaign_id(body, json=self.json)
        except ValueError as error:
            raise invalid(f"unmarshal message: {error}") from error
        idempotency_key = read_idempotency_key(self.fields)
        campaign = services.campaigns.find(campaign_id)
        named = parse_uuid(campaign_id) if campaign is None else None
        if named is None:
            self._submit(services, campaign, idempotency_key)
        else:
            services.campaigns.start_look_up(named, lambda found: self._looked_up(services, found, idempotency_key))

    def _looked_up(
        self, services: Services, found: KnownCampaign | Exception | None, idempotency_key: str | None
    ) -> None:
        if self.response_complete:
            return
        try:
            if isinstance(found, Exception):
                raise found
            self._submit(services, found, idempotency_key)
        except Exception as error:
            self.fail(error)

    def _submit(self, services: Services, campaign: KnownCampaign | None, idempotency_key: str | None) -> None:
        policy, key = self.route.policy, self.key
        permitted = policy.permitted(services, campaign, key)
        if permitted is None:
            self.finish(INVALID, UNKNOWN_WIRES[self.json])
        elif isinstance(permitted, ProblemError):
            self.refuse(permitted)
        else:
            pool = policy.pool(services, permitted)
            key_id, key_scope = (0, NO_API_KEY) if key is None else (key.id, key.anonymous_scope)
            services.engine.submit(self, pool, None, key_id, idempotency_key, key_scope=key_scope)

    def answer_wire(self, answer: Answer) -> Wire:
        return answer_wire(answer, self.json)

    def problem_wire(self, problem: ProblemError) -> Wire:
        return failure_wire(Failure.of(problem))

    def crash_wire(self) -> Wire:
        return failure_wire(CRASHED)


class TimedIssueExchange(IssueExchange):
    """One code of a campaign, for a caller that wants no answer after a time."""

    __slots__ = ("_timeout_ms", "_timer")

    def begin(self) -> None:
        self._timeout_ms = int(self.fields[b"connect-timeout-ms"])
        self._timer = asyncio.get_running_loop().call_later(self._timeout_ms / 1000, self._expire)
        super().begin()

    def receive(self, body: bytes) -> None:
        if self._timeout_ms == 0:
            # The time has passed before anything is sent to Redis, so nothing is issued.
            self._expire()
        else:
            super().receive(body)

    def _expire(self) -> None:
        """Answer that the time-out has passed. What was not sent to Redis by now is never sent."""
        if not self.response_complete:
            self.finish(INVALID, failure_wire(TIMED_OUT))

    def finish(self, outcome: str, wire: Wire) -> None:
        self._timer.cancel()
        super().finish(outcome, wire)

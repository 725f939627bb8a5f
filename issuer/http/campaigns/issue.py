"""IssueCoupon, the hot path of campaigns: the short way for ordinary calls.

An ordinary call is a whole, small, uncompressed Connect call, JSON or binary; it comes straight from the protocol
(`IssueExchange`) and costs as little as a redemption. Everything else (gRPC-Web, compressed and chunked bodies, headers
that the Connect protocol refuses) goes to the library, which asks the same `IssuePolicy`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson
import structlog
from connectrpc.code import Code
from google.protobuf.message import DecodeError

from issuer.access.api_keys import ApiKey
from issuer.campaigns.cache import KnownCampaign, LookUpsBusyError
from issuer.engine.calls import Answer
from issuer.http.campaigns.answers import (
    CRASHED,
    NOT_READY,
    TIMED_OUT,
    UNKNOWN_WIRES,
    Failure,
    answer_wire,
    failure_wire,
)
from issuer.http.campaigns.policy import LOOK_UP_FAILURES, IssuePolicy, checked_key
from issuer.http.edge.exchange import Exchange, Headers
from issuer.http.fields import UUID_FORM
from issuer.http.metrics.exposition import CRASH, INVALID
from issuer.http.redeem.answers import Wire
from issuer.http.rpc.coupon.coupon_pb2 import IssueCouponRequest
from issuer.http.services import Services
from issuer.rate_limits.leases import AdmissionResult, RateLimited
from issuer.storage.postgres import PostgresUnavailableError

if TYPE_CHECKING:
    from issuer.http.edge.protocol import GuardedHttpToolsProtocol

log = structlog.get_logger()

ISSUE_PATH: Final = "/coupon.CouponService/IssueCoupon"

_TIMEOUT_MS: Final = re.compile(rb"[0-9]{1,10}")
_CODECS: Final = {
    b"application/json": True,
    b"application/json; charset=utf-8": True,
    b"application/proto": False,
}


class OrdinaryCall(NamedTuple):
    """What the headers of an ordinary call say. `json`: its codec; else binary."""

    json: bool
    authorization: bytes | None
    idempotency_keys: Sequence[bytes]
    timeout_ms: int | None


def ordinary_call(headers: Headers) -> OrdinaryCall | None:
    """None: the call is for the library."""
    json: bool | None = None
    authorization, timeout_ms = None, None
    idempotency_keys: Sequence[bytes] = ()
    for name, value in headers:
        if name == b"content-type":
            json = _CODECS.get(value)
        elif name == b"authorization":
            authorization = value
        elif name == b"idempotency-key":
            idempotency_keys = (*idempotency_keys, value)
        elif name == b"connect-timeout-ms":
            if _TIMEOUT_MS.fullmatch(value) is None:
                return None
            timeout_ms = int(value)
        elif (name == b"connect-protocol-version" and value != b"1") or name == b"content-encoding":
            return None
    return None if json is None else OrdinaryCall(json, authorization, idempotency_keys, timeout_ms)


class IssueRoute:
    """Makes exchanges of ordinary calls."""

    def __init__(self, desk: IssuePolicy) -> None:
        self.desk = desk

    def exchange(self, protocol: GuardedHttpToolsProtocol) -> Exchange | None:
        """One call that comes straight from the protocol; None: it is not an ordinary one."""
        call = ordinary_call(protocol.headers)
        return None if call is None else IssueExchange(self.desk, protocol, call)


class UnparsableError(ValueError):
    """The body is not the message of the call."""


def campaign_id_of(body: bytes, *, json: bool) -> str:
    """The campaign that an IssueCouponRequest names; empty where it names none. Raises UnparsableError."""
    try:
        if not json:
            return IssueCouponRequest.FromString(body).campaign_id
        fields = orjson.loads(body)
    except (DecodeError, orjson.JSONDecodeError) as error:
        raise UnparsableError(str(error)) from error
    if type(fields) is not dict:
        raise UnparsableError("not an object")
    # Either name is good in ProtoJSON, and null is the same as nothing.
    campaign_id = fields.get("campaignId")
    if campaign_id is None:
        campaign_id = fields.get("campaign_id")
    if campaign_id is not None and type(campaign_id) is not str:
        raise UnparsableError("campaignId must be a string")
    return campaign_id or ""


class IssueExchange(Exchange):
    """One coupon without ASGI: begins when the request is there, ends when the engine has the answer."""

    __slots__ = ("_call", "_caller", "_desk", "_key", "_services", "_started", "_timer")

    def __init__(self, desk: IssuePolicy, protocol: GuardedHttpToolsProtocol, call: OrdinaryCall) -> None:
        super().__init__(protocol)
        self._desk = desk
        self._call = call
        self._caller: ApiKey | Failure | None = None
        self._key: ApiKey | None = None
        self._services: Services | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0

    def begin(self, headers: Headers, body: bytes) -> None:
        self._started = time.perf_counter()
        self._services = services = self._desk.services
        if services is None:
            self._finish(INVALID, failure_wire(NOT_READY))
            return
        try:
            self._begin(services, headers)
        except Exception:
            log.exception("a call of IssueCoupon failed")
            self._crash()

    def _begin(self, services: Services, headers: Headers) -> None:
        call, client = self._call, self.protocol.client
        if call.timeout_ms is not None:
            self._timer = asyncio.get_running_loop().call_later(call.timeout_ms / 1000, self._expire)
        self._caller = caller = self._desk.caller(services, call.authorization)
        known = None if isinstance(caller, Failure) else caller
        if services.limits.passes(known, client[0] if client else None, headers, self._enter):
            self._proceed(services)

    def _enter(self, verdict: AdmissionResult) -> None:
        """Goes on when a rate limit has let the call in, or refused it."""
        services = self._services
        assert services is not None
        if self.response_complete:
            return
        try:
            if isinstance(verdict, RateLimited):
                self._fail(Failure.of(services.limits.refusal(verdict)))
            else:
                self._proceed(services)
        except Exception:
            log.exception("a call of IssueCoupon failed")
            self._crash()

    def _proceed(self, services: Services) -> None:
        call, key, body = self._call, self._caller, self.body
        if isinstance(key, Failure):
            self._fail(key)
            return
        self._key = key
        try:
            campaign_id = campaign_id_of(body, json=call.json)
        except UnparsableError as error:
            self._fail(Failure(Code.INVALID_ARGUMENT, f"unmarshal message: {error}"))
            return
        campaign = services.campaigns.find(campaign_id)
        if campaign is None and UUID_FORM.fullmatch(campaign_id):
            services.campaigns.start_look_up(UUID(campaign_id), self._looked_up)
        else:
            self._ask(services, campaign)

    def _looked_up(self, found: KnownCampaign | Exception | None) -> None:
        assert self._services is not None
        if self.response_complete:
            return
        try:
            if isinstance(found, LookUpsBusyError | PostgresUnavailableError):
                self._fail(LOOK_UP_FAILURES[type(found)])
            elif isinstance(found, Exception):
                raise found
            else:
                self._ask(self._services, found)
        except Exception:
            log.exception("a call of IssueCoupon failed")
            self._crash()

    def _ask(self, services: Services, campaign: KnownCampaign | None) -> None:
        idempotency_key = checked_key(self._call.idempotency_keys)
        if isinstance(idempotency_key, Failure):
            self._fail(idempotency_key)
            return
        refusal = self._desk.may_ask(campaign, self._key)
        if isinstance(refusal, Failure):
            self._fail(refusal)
        elif campaign is None or refusal is not None:
            self._finish(INVALID, UNKNOWN_WIRES[self._call.json])
        else:
            key_id = 0 if self._key is None else self._key.id
            services.engine.submit(self, self._desk.pool(services, campaign), None, key_id, idempotency_key)

    def done(self) -> bool:
        """What a client that has gone meanwhile asked for is carried out all the same, and counted."""
        return self.response_complete

    def set_result(self, answer: Answer) -> None:
        try:
            self._finish(answer.outcome, answer_wire(answer, self._call.json))
        except Exception:
            log.exception("a call of IssueCoupon failed")
            self._crash()

    def _expire(self) -> None:
        """The caller waits no longer. What was not sent to Redis by now is never sent."""
        if not self.response_complete:
            self._fail(TIMED_OUT)

    def _fail(self, failure: Failure) -> None:
        self._finish(INVALID, failure_wire(failure))

    def _finish(self, outcome: str, wire: Wire) -> None:
        if self._timer is not None:
            self._timer.cancel()
        head = wire.head
        self.respond(head.status, head.lines, wire.body)
        if self._services is not None:
            self._services.tally.count(outcome, time.perf_counter() - self._started)

    def _crash(self) -> None:
        if not self.response_complete:
            self._finish(CRASH, failure_wire(CRASHED))

"""The coupon service, for Connect and gRPC-Web clients: POST /coupon.CouponService/<Method>.

The Connect project's library speaks the protocols; this module says what the methods do and keeps from the library what
it does not bound by itself. Ordinary calls of IssueCoupon do not come here: see `issue_coupon`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

import structlog
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from issuer.access.api_keys import ApiKey
from issuer.access.api_keys import Scope as KeyScope
from issuer.access.audit import AUTH_OFF_ACTOR
from issuer.campaigns.campaign import DEFAULT_CLIENT, Campaign, CampaignNotFoundError, InvalidCampaignError
from issuer.campaigns.issued import find_last_issued, read_issued_codes
from issuer.campaigns.store import NewCampaign, create_campaign, find_campaign
from issuer.http.campaigns.answers import CRASHED, Failure
from issuer.http.campaigns.codecs import (
    BinaryCodec,
    EncodedMessage,
    JsonCodec,
    encode_codes,
    instant_of,
    joined,
    timestamp_of,
)
from issuer.http.campaigns.policy import FORBIDDEN, UNAUTHENTICATED, IssuePolicy
from issuer.http.edge.exchange import Headers
from issuer.http.fields import is_uuid
from issuer.http.problems.failures import problem_of
from issuer.http.problems.problem import ProblemError, invalid, not_ready
from issuer.http.rpc.coupon.coupon_connect import CouponServiceASGIApplication
from issuer.http.rpc.coupon.coupon_pb2 import (
    CreateCampaignRequest,
    CreateCampaignResponse,
    GetCampaignRequest,
    GetCampaignResponse,
    IssueCouponRequest,
    IssueCouponResponse,
)
from issuer.http.services import Services
from issuer.settings import Auth, Settings

log = structlog.get_logger()

METHOD_PATHS: Final = tuple(
    f"/coupon.CouponService/{method}" for method in ("CreateCampaign", "GetCampaign", "IssueCoupon")
)
MAX_ISSUED: Final = 1_000_000
"""Codes that one answer of GetCampaign lists at most. What is more comes in pages from the REST twin."""
MAX_LISTS: Final = 2
MAX_WAITING_LISTS: Final = 16
CHUNK_BYTES: Final = 262_144
"""Bytes of an answer that are sent at a time, so that a slow reader is told from one that has gone."""
_NOT_SHOWN: Final = (b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding")
_GRPC: Final = re.compile(rb"application/grpc(\+|;|\s*$)", re.IGNORECASE)
GRPC_OVER_HTTP_1: Final = ProblemError(
    415,
    "gRPC needs HTTP/2 and trailers; speak Connect or gRPC-Web here",
    "unsupported_media_type",
    headers={"Accept-Post": "application/json, application/proto, application/grpc-web"},
)


_SENDER: Final[ContextVar[tuple[str | None, Headers]]] = ContextVar("sender")
"""Address and headers of the call that is being answered: the library does not pass them on."""


class CouponMethods:
    """What the methods do. One for all calls of a process."""

    def __init__(self, desk: IssuePolicy, settings: Settings) -> None:
        self._desk = desk
        self._auth = settings.auth is Auth.ON
        self._lists = asyncio.Semaphore(MAX_LISTS)
        self._lists_waiting = 0

    async def create_campaign(
        self, request: CreateCampaignRequest, ctx: RequestContext[CreateCampaignRequest, CreateCampaignResponse]
    ) -> CreateCampaignResponse:
        with _told(ctx):
            services, key = await self._admit(ctx)
            if self._auth and (key is None or KeyScope.ADMIN not in key.scopes):
                raise CallFailedError(UNAUTHENTICATED if key is None else FORBIDDEN)
            if not request.HasField("start_time"):
                raise InvalidCampaignError("start_time is missing")
            new = NewCampaign(
                name=request.name,
                total=request.total,
                starts_at=instant_of(request.start_time),
                client_id=DEFAULT_CLIENT if key is None or key.client_id is None else key.client_id,
            )
            async with services.loads:
                actor = AUTH_OFF_ACTOR if key is None else key.actor
                campaign = await create_campaign(services.stores, new, actor=actor)
            return CreateCampaignResponse(campaign_id=str(campaign.id))

    async def get_campaign(
        self, request: GetCampaignRequest, ctx: RequestContext[GetCampaignRequest, GetCampaignResponse]
    ) -> GetCampaignResponse:
        with _told(ctx):
            services, key = await self._admit(ctx)
            campaign = await self._find(services, key, request.campaign_id)
            head = GetCampaignResponse(
                campaign_id=str(campaign.id),
                name=campaign.batch.name,
                total=campaign.total,
                start_time=timestamp_of(campaign.starts_at),
            )
            if self._auth and (key is None or not _sees_codes(key, campaign)):
                return head
            return await self._with_codes(services, campaign, head, json=_is_json(ctx))  # type: ignore[return-value]

    async def issue_coupon(
        self, request: IssueCouponRequest, ctx: RequestContext[IssueCouponRequest, IssueCouponResponse]
    ) -> IssueCouponResponse:
        with _told(ctx):
            await self._enter(ctx)
            keys = [key.encode() for key in ctx.request_headers.getall("idempotency-key")]
            said = await self._desk.issue(_authorization(ctx), keys, request.campaign_id)
            if isinstance(said, Failure):
                raise CallFailedError(said)
            if said.replayed:
                ctx.response_headers["idempotency-replayed"] = "true"
            return said.to_message()

    async def _enter(self, ctx: RequestContext[Any, Any]) -> tuple[Services, ApiKey | Failure | None]:
        """Within the rate limits, whatever the key is good for."""
        services = self._desk.services
        if services is None:
            raise not_ready()
        key = self._desk.caller(services, _authorization(ctx))
        peer, headers = _SENDER.get()
        address = services.limits.address_of(peer, headers)
        await services.limits.admit(None if isinstance(key, Failure) else key, address)
        return services, key

    async def _admit(self, ctx: RequestContext[Any, Any]) -> tuple[Services, ApiKey | None]:
        services, key = await self._enter(ctx)
        if isinstance(key, Failure):
            raise CallFailedError(key)
        return services, key

    async def _find(self, services: Services, key: ApiKey | None, campaign_id: str) -> Campaign:
        """Whoever may ask for a coupon of a campaign may see it, and so may its administrators."""
        not_found = ConnectError(Code.NOT_FOUND, "no campaign found")
        if not is_uuid(campaign_id):
            raise CallFailedError(UNAUTHENTICATED) if self._auth and key is None else not_found
        try:
            campaign = await find_campaign(services.stores.postgres, UUID(campaign_id))
        except CampaignNotFoundError:
            raise CallFailedError(UNAUTHENTICATED) if self._auth and key is None else not_found from None
        if campaign.public or not self._auth:
            return campaign
        if key is None:
            raise CallFailedError(UNAUTHENTICATED)
        if not key.scopes & {KeyScope.REDEEM, KeyScope.ADMIN}:
            raise CallFailedError(FORBIDDEN)
        if key.client_id not in (None, campaign.client_id):
            raise not_found
        return campaign

    async def _with_codes(
        self, services: Services, campaign: Campaign, head: GetCampaignResponse, *, json: bool
    ) -> EncodedMessage:
        """The answer with the codes, read and encoded in pieces, between which others get their turn."""
        if self._lists_waiting >= MAX_WAITING_LISTS:
            raise ConnectError(Code.UNAVAILABLE, "too many campaigns are asked for their codes")
        self._lists_waiting += 1
        try:
            async with self._lists:
                last = await find_last_issued(services.stores, campaign)
                if last > MAX_ISSUED:
                    raise ConnectError(
                        Code.RESOURCE_EXHAUSTED,
                        f"{last:,} codes were issued, and more than {MAX_ISSUED:,} are listed in pages only:"
                        f" GET /api/v1/campaigns/{campaign.id}/codes",
                    )
                pieces = [
                    encode_codes(codes, json=json) async for codes in read_issued_codes(services.stores, campaign, last)
                ]
        finally:
            self._lists_waiting -= 1
        return EncodedMessage(joined(head, pieces, json=json))


def _sees_codes(key: ApiKey, campaign: Campaign) -> bool:
    return KeyScope.ADMIN in key.scopes and key.client_id in (None, campaign.client_id)


def _is_json(ctx: RequestContext[Any, Any]) -> bool:
    """Whether the codec of the call is JSON; the library has refused what it does not know."""
    return ctx.request_headers["content-type"].partition(";")[0].strip().lower().endswith("json")


def _authorization(ctx: RequestContext[Any, Any]) -> bytes | None:
    value = ctx.request_headers.get("authorization")
    return None if value is None else value.encode()


class CallFailedError(Exception):
    """Ends a call with a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@contextmanager
def _told(ctx: RequestContext[Any, Any]) -> Iterator[None]:
    """Turns what is raised into what the library tells the caller: nothing that is not foreseen is told."""
    try:
        yield
    except ConnectError:
        raise
    except Exception as error:
        problem = problem_of(error)
        if isinstance(error, CallFailedError):
            failure = error.failure
        elif problem is not None:
            failure = Failure.of(problem)
        else:
            log.exception("a method of the coupon service failed", method=ctx.method.name)
            failure = CRASHED
        for name, value in failure.headers:
            ctx.response_headers[name] = value
        raise ConnectError(failure.code, failure.message) from error


class CouponServiceApp:
    """The ASGI application: the library's, within bounds."""

    def __init__(self, desk: IssuePolicy, settings: Settings) -> None:
        self._app = CouponServiceASGIApplication(
            CouponMethods(desk, settings),
            read_max_bytes=settings.max_body_bytes,
            codecs=(BinaryCodec(), JsonCodec()),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = allowed_headers(scope["headers"], trailers="http.response.trailers" in scope.get("extensions", {}))
        _SENDER.set((scope["client"][0] if scope.get("client") else None, scope["headers"]))
        try:
            await self._app({**scope, "headers": headers}, receive, in_pieces(send))
        except Exception:
            # The caller has been told, or has gone.
            log.exception("a call of the coupon service failed", path=scope["path"])


def allowed_headers(headers: Iterable[tuple[bytes, bytes]], *, trailers: bool) -> list[tuple[bytes, bytes]]:
    """What the library is shown of the headers. `trailers`: the server can send them. Raises ProblemError.

    Not what the caller would accept compressed: to compress a long list of codes would hold the process.
    """
    allowed = []
    for name, value in headers:
        if name in _NOT_SHOWN:
            continue
        if name == b"content-type" and _GRPC.match(value) and not trailers:
            raise GRPC_OVER_HTTP_1
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise invalid(f"the header {name.decode('latin-1')!a} is not UTF-8") from error
        allowed.append((name, value))
    return allowed


def in_pieces(send: Send) -> Send:
    """`send`, but that a large body goes out piece by piece: so a slow reader is told from one that has gone."""

    async def send_some(message: AsgiMessage) -> None:
        body, at = message.get("body", b""), 0
        while len(body) - at > CHUNK_BYTES:
            await send({"type": "http.response.body", "body": body[at : at + CHUNK_BYTES], "more_body": True})
            at += CHUNK_BYTES
        await send({**message, "body": body[at:]} if at else message)

    return send_some

"""The coupon service, for Connect and gRPC-Web clients: POST /coupon.CouponService/<Method>.

The Connect project's library implements the protocols. This module implements the methods, and keeps from the library
what it does not bound by itself. Ordinary calls of IssueCoupon do not arrive here: see `issue`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import structlog
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from starlette.responses import Response
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from issuer.access.api_keys import ApiKey
from issuer.access.api_keys import Scope as KeyScope
from issuer.access.audit import AUTH_OFF_ACTOR
from issuer.campaigns.campaign import DEFAULT_CLIENT, RPC_FORMAT, Campaign, CampaignNotFoundError, InvalidCampaignError
from issuer.campaigns.issued import find_last_issued, read_issued_codes
from issuer.campaigns.store import NewCampaign, create_campaign, find_campaign
from issuer.clients.registry import default_client
from issuer.http.auth import Access
from issuer.http.campaigns.admission import (
    CURRENT_CALL,
    AdmissionInterceptor,
    AdmittedCall,
    CallFailedError,
    failures_answered,
)
from issuer.http.campaigns.answers import Failure
from issuer.http.campaigns.codecs import (
    BinaryCodec,
    EncodedMessage,
    JsonCodec,
    encode_codes,
    instant_of,
    join_message,
    timestamp_of,
)
from issuer.http.campaigns.policy import IssuePolicy
from issuer.http.edge.header_fields import Headers, header_fields
from issuer.http.idempotency import (
    REPLAYED,
    AlreadyAnsweredError,
    Idempotency,
    KeyedAct,
    read_idempotency_key,
    request_digest,
)
from issuer.http.limiting.fair_slots import LOAD_WAIT_S
from issuer.http.loading import loading
from issuer.http.problems.problem import ProblemError
from issuer.http.reading_pace import ReadingPace, SlowReaderError
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
from issuer.ids import parse_uuid
from issuer.settings import Settings

log = structlog.get_logger()

METHOD_PATHS: Final = tuple(
    f"/coupon.CouponService/{method}" for method in ("CreateCampaign", "GetCampaign", "IssueCoupon")
)
CREATE_PATH: Final = METHOD_PATHS[0]
MAX_ISSUED: Final = 1_000_000
"""Codes that one answer of GetCampaign lists at most. The REST route lists more of them in pages."""
CHUNK_BYTES: Final = 262_144
"""Bytes of an answer that are sent at a time: the write time-out is for each of them, not for the whole answer."""
_NOT_SHOWN: Final = (b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding")
_GRPC: Final = re.compile(rb"application/grpc(\+|;|\s*$)", re.IGNORECASE)
GRPC_OVER_HTTP_1: Final = ProblemError(
    415,
    "gRPC needs HTTP/2 and trailers; speak Connect or gRPC-Web here",
    "unsupported_media_type",
    headers={"Accept-Post": "application/json, application/proto, application/grpc-web"},
)


class CouponMethods:
    """The methods. One instance serves all calls of a process."""

    def __init__(self, policy: IssuePolicy) -> None:
        self._policy = policy

    async def create_campaign(
        self, request: CreateCampaignRequest, ctx: RequestContext[CreateCampaignRequest, CreateCampaignResponse]
    ) -> CreateCampaignResponse:
        with failures_answered(ctx):
            call = CURRENT_CALL.get()
            services, key = call.admitted
            call.require(Access.ADMIN)
            if not request.HasField("start_time"):
                raise InvalidCampaignError("start_time is missing")
            new = NewCampaign(
                name=request.name,
                total=request.total,
                starts_at=instant_of(request.start_time),
                code_format=RPC_FORMAT,
                client_id=(key and key.client_id) or await default_client(services.stores) or DEFAULT_CLIENT,
            )
            return await self._create(call, request, new, ctx)

    async def _create(
        self,
        call: AdmittedCall,
        request: CreateCampaignRequest,
        new: NewCampaign,
        ctx: RequestContext[CreateCampaignRequest, CreateCampaignResponse],
    ) -> CreateCampaignResponse:
        """Create a campaign, or repeat the answer that is kept for the call's Idempotency-Key, in whatever codec."""
        services, key = call.admitted
        client_id, actor = (None, AUTH_OFF_ACTOR) if key is None else (key.client_id, key.actor)
        idempotency = Idempotency(
            services.stores.postgres,
            client_id,
            CREATE_PATH,
            read_idempotency_key(call.fields),
            request_digest(request.SerializeToString(deterministic=True)),
        )
        try:
            await idempotency.check()
            act = KeyedAct(idempotency, _show_created)
            async with loading(services, call.tenant):
                await create_campaign(services.stores, new, actor=actor, act=act)
            kept = bytes(act.response.body)
        except AlreadyAnsweredError as done:
            ctx.response_headers[REPLAYED] = "true"
            kept = done.answer.body
        return CreateCampaignResponse.FromString(kept)

    async def get_campaign(
        self, request: GetCampaignRequest, ctx: RequestContext[GetCampaignRequest, GetCampaignResponse]
    ) -> GetCampaignResponse:
        with failures_answered(ctx):
            call = CURRENT_CALL.get()
            services, key = call.admitted
            async with services.operation(call.tenant):
                campaign = await self._find(call, request.campaign_id)
            head = GetCampaignResponse(
                campaign_id=str(campaign.id),
                name=campaign.batch.name,
                total=campaign.total,
                start_time=timestamp_of(campaign.starts_at),
            )
            if services.checks_keys and (key is None or not _sees_codes(key, campaign)):
                return head
            await call.until_sent.enter_async_context(services.slots.lists.hold(call.tenant, wait_s=LOAD_WAIT_S))
            return await self._with_codes(services, campaign, head, json=_is_json(ctx))  # type: ignore[return-value]

    async def issue_coupon(
        self, request: IssueCouponRequest, ctx: RequestContext[IssueCouponRequest, IssueCouponResponse]
    ) -> IssueCouponResponse:
        with failures_answered(ctx):
            call = CURRENT_CALL.get()
            services, key = call.admitted
            idempotency_key = read_idempotency_key(call.fields)
            result = await self._policy.issue(services, key, idempotency_key, request.campaign_id)
            if isinstance(result, Failure):
                raise CallFailedError(result)
            if result.replayed:
                ctx.response_headers["idempotency-replayed"] = "true"
            return result.to_message()

    async def _find(self, call: AdmittedCall, campaign_id: str) -> Campaign:
        """Return a campaign to a caller that may ask it for a code or administers it.

        Raises ProblemError and ConnectError. A caller that may not see a campaign gets the same answer as for one that
        does not exist.
        """
        services, key = call.admitted
        campaign = None
        known_id = parse_uuid(campaign_id)
        if known_id is not None:
            with suppress(CampaignNotFoundError):
                campaign = await find_campaign(services.stores.postgres, known_id)
        if campaign is not None and (campaign.public or not services.checks_keys):
            return campaign
        call.require(Access.ANY_KEY)
        if campaign is None or (key is not None and key.client_id not in (None, campaign.client_id)):
            raise ConnectError(Code.NOT_FOUND, "no campaign found")
        return campaign

    async def _with_codes(
        self, services: Services, campaign: Campaign, head: GetCampaignResponse, *, json: bool
    ) -> EncodedMessage:
        """Return the answer with the codes, read and encoded in pieces: other requests are served between them."""
        last = await find_last_issued(services.stores, campaign)
        if last > MAX_ISSUED:
            raise ConnectError(
                Code.RESOURCE_EXHAUSTED,
                f"{last:,} codes were issued, and more than {MAX_ISSUED:,} are listed in pages only:"
                f" GET /api/v1/campaigns/{campaign.id}/codes",
            )
        pieces = [encode_codes(codes, json=json) async for codes in read_issued_codes(services.stores, campaign, last)]
        return EncodedMessage(join_message(head, pieces, json=json))


async def _show_created(campaign: Campaign) -> Response:
    return Response(CreateCampaignResponse(campaign_id=str(campaign.id)).SerializeToString())


def _sees_codes(key: ApiKey, campaign: Campaign) -> bool:
    return KeyScope.ADMIN in key.scopes and key.client_id in (None, campaign.client_id)


def _is_json(ctx: RequestContext[Any, Any]) -> bool:
    """Whether the codec of the call is JSON; the library has refused any that it does not know."""
    return ctx.request_headers["content-type"].partition(";")[0].strip().lower().endswith("json")


class CouponServiceApp:
    """The ASGI application: the library's, within bounds. Until the lifespan has set `services`, calls are a 503."""

    def __init__(self, policy: IssuePolicy, settings: Settings) -> None:
        self.services: Services | None = None
        self._app = CouponServiceASGIApplication(
            CouponMethods(policy),
            interceptors=(AdmissionInterceptor(lambda: self.services),),
            read_max_bytes=settings.max_body_bytes,
            codecs=(BinaryCodec(), JsonCodec()),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        allowed = allowed_headers(headers, trailers="http.response.trailers" in scope.get("extensions", {}))
        call = AdmittedCall(scope["client"][0] if scope.get("client") else None, headers, header_fields(headers))
        CURRENT_CALL.set(call)
        try:
            # A slash at the end makes no difference on the paths of predecessors; the library would answer 404.
            path = scope["path"].removesuffix("/")
            async with call.until_sent:
                await self._app({**scope, "path": path, "headers": allowed}, receive, in_pieces(ReadingPace(send)))
        except SlowReaderError as error:
            log.warning("a client reads its answer too slowly; it was broken off", reason=str(error))
        except Exception:
            # The caller has its answer, or has closed the connection.
            log.exception("a call of the coupon service failed", path=scope["path"])


def allowed_headers(headers: Headers, *, trailers: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers that the library gets. Raises ProblemError (415) for gRPC where the server sends no trailers.

    Left out is which compression the caller accepts: to compress a long list of codes would block the event loop. The
    library decodes every value as UTF-8. One that is not UTF-8 is passed on as Latin-1 text, so that a header that no
    method reads has no effect, as on the fast path. Credentials and Idempotency-Key are read from the original headers.
    """
    allowed = []
    for name, value in headers:
        if name in _NOT_SHOWN:
            continue
        if name == b"content-type" and _GRPC.match(value) and not trailers:
            raise GRPC_OVER_HTTP_1
        try:
            value.decode()
        except UnicodeDecodeError:
            value = value.decode("latin-1").encode()
        allowed.append((name, value))
    return allowed


def in_pieces(send: Send) -> Send:
    """Return a `send` that sends a large body in pieces, so that a slow reader is not taken for one that has left."""

    async def send_some(message: AsgiMessage) -> None:
        body, at = message.get("body", b""), 0
        while len(body) - at > CHUNK_BYTES:
            await send({"type": "http.response.body", "body": body[at : at + CHUNK_BYTES], "more_body": True})
            at += CHUNK_BYTES
        await send({**message, "body": body[at:]} if at else message)

    return send_some

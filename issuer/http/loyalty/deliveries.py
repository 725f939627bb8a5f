"""POST /hooks/{endpoint}: deliveries of shops. A signature stands in the place of an API key.

A delivery is stored before it is answered, so a 200 means that it will be processed. It is processed after the answer,
or by the worker. What is received at once is bounded for each client, within it for each endpoint, and within that for
each address: a flood at one endpoint stops no other, and many endpoints of one client stop no other client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import structlog
from starlette.background import BackgroundTask
from starlette.responses import Response

from issuer.access.secrets import SecretKeys
from issuer.http.auth import Access
from issuer.http.edge.limits import DELIVERY_PATH
from issuer.http.fields import json_response
from issuer.http.limiting.fair_slots import Tenant
from issuer.http.metrics.hook_outcome import HookOutcome
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.http.services import Services
from issuer.ids import parse_uuid
from issuer.loyalty.hooks.body import ShopBodyError
from issuer.loyalty.hooks.endpoint import HookEndpoint, HookNotFoundError
from issuer.loyalty.hooks.endpoint_store import find_endpoint, valid_secrets
from issuer.loyalty.hooks.events import Delivery, ShopKind
from issuer.loyalty.hooks.inbox import store_delivery, store_unreadable
from issuer.loyalty.hooks.processing import HookProcessor, NotYetError
from issuer.loyalty.hooks.reading import read_delivery
from issuer.loyalty.hooks.signatures import SignatureError, verify
from issuer.loyalty.hooks.woocommerce import is_ping
from issuer.loyalty.waiting import PointsBusyError
from issuer.storage.postgres import PostgresUnavailableError

log = structlog.get_logger()

WAIT_S: Final = 3.0
"""Longest wait for a slot: shops wait five seconds for an answer."""


async def post_delivery(context: RequestContext) -> Response:
    """Store one delivery, and process it once it is answered."""
    services = context.services
    await services.limits.admit(None, context.address)
    async with services.operation((context.address,)):
        endpoint, secrets = await _endpoint(context)
    tenant: Tenant = (endpoint.client_id, endpoint.id, context.address)
    async with services.slots.deliveries.hold(tenant, wait_s=WAIT_S):
        raw = await context.request.body()
        headers = _headers(context)
        if endpoint.kind is ShopKind.WOOCOMMERCE and is_ping(headers, raw):
            return _answer(services, HookOutcome.PING)
        try:
            verify(endpoint.kind, secrets, headers, raw, endpoint.notification_url or "")
        except SignatureError as error:
            services.tally.count_delivery(HookOutcome.UNSIGNED)
            raise _unsigned(error) from error
        try:
            delivery = read_delivery(endpoint.kind, headers, raw)
        except ShopBodyError as error:
            return await _refuse(context, endpoint, headers, raw, error)
        return await _keep(services, endpoint, delivery, tenant)


def _unsigned(error: SignatureError) -> ProblemError:
    headers = {"WWW-Authenticate": 'Signature realm="hook"'}
    return ProblemError(401, "the signature is not valid", "signature_invalid", detail=str(error), headers=headers)


async def _endpoint(context: RequestContext) -> tuple[HookEndpoint, list[str]]:
    """Return the endpoint of the path with its valid secrets. Raises HookNotFoundError, also for a revoked one."""
    services, id_ = context.services, parse_uuid(context.request.path_params["endpoint"])
    postgres = services.stores.postgres
    endpoint = None if id_ is None else await find_endpoint(postgres, id_)
    if endpoint is None or endpoint.revoked_at is not None:
        raise HookNotFoundError
    keys = SecretKeys.from_settings(services.settings)
    return endpoint, list(await valid_secrets(postgres, keys, endpoint, datetime.now(UTC)))


async def _keep(services: Services, endpoint: HookEndpoint, delivery: Delivery, tenant: Tenant) -> Response:
    id_ = await store_delivery(services.stores.postgres, endpoint, delivery)
    if id_ is None:
        return _answer(services, HookOutcome.REPEATED)
    if not delivery.events:
        return _answer(services, HookOutcome.IGNORED, delivery.note)
    response = _answer(services, HookOutcome.RECEIVED)
    response.background = BackgroundTask(_process, services, id_, tenant)
    return response


async def _refuse(
    context: RequestContext, endpoint: HookEndpoint, headers: Mapping[str, str], raw: bytes, error: ShopBodyError
) -> Response:
    """Answer a delivery that is signed and cannot be read.

    Own software gets a 400 that says why. A shop would repeat it, and then stop to send: its delivery is shown.
    """
    services = context.services
    if endpoint.kind is ShopKind.STANDARD:
        services.tally.count_delivery(HookOutcome.UNREADABLE)
        raise invalid(str(error), "invalid_delivery") from error
    topic = headers.get("x-shopify-topic") or headers.get("x-wc-webhook-topic") or ""
    id_ = f"unreadable {hashlib.sha256(raw).hexdigest()}"
    await store_unreadable(services.stores.postgres, endpoint, id_, topic[:255], str(error))
    return _answer(services, HookOutcome.UNREADABLE, str(error))


async def _process(services: Services, id_: int, tenant: Tenant) -> None:
    """Process a delivery that is stored. After any error here the worker tries again."""
    try:
        async with services.slots.deliveries.hold(tenant, wait_s=services.settings.postgres_timeout_s):
            await HookProcessor(services.stores.postgres, services.loyalty).process(id_)
    except (NotYetError, PointsBusyError, PostgresUnavailableError, ProblemError) as error:
        log.info("a delivery of a shop is left to the worker", delivery=id_, reason=str(error))
    except Exception:
        log.exception("a delivery of a shop cannot be processed; the worker tries again", delivery=id_)


def _answer(services: Services, outcome: HookOutcome, note: str = "") -> Response:
    services.tally.count_delivery(outcome)
    return json_response({"outcome": str(outcome), "note": note})


def _headers(context: RequestContext) -> dict[str, str]:
    """Return the headers by name in lower case. Of a repeated one the first counts."""
    found: dict[str, str] = {}
    for name, value in context.request.headers.items():
        found.setdefault(name.lower(), value)
    return found


OPERATIONS: Final = (
    Operation("POST", DELIVERY_PATH + "{endpoint}", post_delivery, Access.PUBLIC, takes_slot=False, delivery=True),
)

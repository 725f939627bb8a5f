"""What a request to use a coupon contains, and how it is submitted to the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from issuer.access.api_keys import ApiKey
from issuer.contract.events import encode_order
from issuer.contract.keys import NO_API_KEY
from issuer.contract.outcomes import COUPON_HTTP, Outcome
from issuer.coupons.coupon import CouponNotFoundError
from issuer.coupons.fields import Fields, code_field, text_field
from issuer.coupons.store import find_coupon
from issuer.engine.calls import Answer, Slot
from issuer.http.coupons.fields import body_fields, query_fields, refuse_twice
from issuer.http.fields import identify
from issuer.http.problems.problem import outcome_problem
from issuer.http.services import Services
from issuer.ids import Identity, InvalidIdError, id_of
from issuer.storage.incarnation import Incarnations
from issuer.storage.postgres import unavailable_translated
from issuer.storage.stores import Stores

NO_ORDER: Final = encode_order("")
_ANONYMOUS: Final = (None, None)
_NOT_FOUND: Final = Answer(Outcome.UNKNOWN_BATCH)


# Not frozen: creating a frozen instance takes three times as long, and there is one per request.
@dataclass(slots=True)
class ConsumeRequest:
    """A request to use a coupon, or to look at one. `client_id` None: the client is looked up by the code."""

    code: str
    product: bytes
    customer: bytes | None
    order: bytes
    client_id: UUID | None
    customer_text: str | None = None


def read_consume_request(stores: Stores, values: Fields) -> ConsumeRequest:
    """Check the fields. Raises InvalidCouponError, InvalidIdError. Values that many requests share are checked once."""
    code = values.get("code")
    product = text_field(values, "product_id") if "product_id" in values else None
    order = text_field(values, "order_id") if "order_id" in values else None
    customer_id, customer_text = _customer(stores, values)
    return ConsumeRequest(
        _code(code) if type(code) is str else code_field(values),
        product.encode() if product else b"",
        customer_id,
        encode_order(order) if order else NO_ORDER,
        _client(stores, values),
        customer_text,
    )


def read_small_request(stores: Stores, url: bytes, body: bytes, content_type: bytes) -> ConsumeRequest:
    """Read a request that is no multipart form, from its target, its body and the header that says what that is.

    Raises InvalidJsonError and ProblemError.
    """
    fields = body_fields(body, content_type)
    if b"?" in url:
        fields = _query(url, tuple(fields)) | fields
    return read_consume_request(stores, fields)


@lru_cache(maxsize=1024)
def _query(url: bytes, names: tuple[str, ...]) -> Fields:
    """Return the fields of a query of a request whose body has fields with these names. Raises ProblemError.

    Requests for one coupon repeat the same query with the same fields. The caller must not change the result.
    """
    query = query_fields(url.partition(b"?")[2].decode("ascii", "replace"))
    refuse_twice(query, names)
    return query


@lru_cache(maxsize=4096)
def _code(text: str) -> str:
    return code_field({"code": text})


@lru_cache(maxsize=4096)
def _client_id(text: str, incarnations: Incarnations) -> UUID:
    # Not by the installation's id: the hash of a UUID is a Python call.
    return id_of(text, incarnations.installation_id).uuid


def _client(stores: Stores, values: Fields) -> UUID | None:
    text = values.get("client_id")
    if text is None or text == "":
        return None
    try:
        return _client_id(text, stores.incarnations)
    except (InvalidIdError, TypeError):
        # With the reason, also for what is no string.
        return identify(stores, text, "client_id").uuid


def _customer(stores: Stores, values: Fields) -> Identity | tuple[None, None]:
    """Return the id and its text. It is hardly ever the same twice, so a cache or a UUID object would only cost."""
    text = values.get("customer_id")
    # Absent, null or empty.
    return _ANONYMOUS if text is None or text == "" else identify(stores, text, "customer_id")


async def find_client(services: Services, request: ConsumeRequest, bound_to: UUID | None) -> UUID | None:
    """Return the client whose coupon is meant; None: there is none. Postgres is asked where neither key nor request
    names one.

    Raises ManyClientsError, PostgresUnavailableError, and ProblemError (503) while too many lookups are in progress.
    """
    if bound_to is not None or request.client_id is not None:
        return named_client(request, bound_to)
    if services.look_ups.locked():
        raise outcome_problem(Outcome.OVERLOADED, COUPON_HTTP)
    # The time-out includes the wait for a connection of the pool: no request waits longer than one that Redis answers.
    async with unavailable_translated(), asyncio.timeout(services.settings.redeem_timeout_ms / 1000), services.look_ups:
        try:
            return (await find_coupon(services.stores.postgres, request.code)).client_id
        except CouponNotFoundError:
            return None


def named_client(request: ConsumeRequest, bound_to: UUID | None) -> UUID | None:
    """Return the client that the key is bound to or that the request names; None: these are two different ones."""
    if bound_to is None:
        return request.client_id
    return bound_to if request.client_id is None or request.client_id == bound_to else None


def submit(
    services: Services,
    slot: Slot,
    request: ConsumeRequest,
    client_id: UUID | None,
    key: ApiKey | None,
    idempotency_key: str | None,
    *,
    look: bool = False,
    case_sensitive: bool = False,
) -> None:
    """Submit a use, or a look, to the engine, which puts the answer into `slot`.

    No client has both a coupon with a code and a case-sensitive one that reads like it: where the one is unknown, the
    other may exist, and the order in which they are asked for makes no difference.
    """
    if client_id is None:
        slot.set_result(_NOT_FOUND)
        return
    location, product = services.coupons.find(client_id, request.code, case_sensitive=case_sensitive), request.product
    wish = location.wish(product) if product else location.bare_wish
    pool = location.look if look else location.use
    key_id, key_scope = (0, NO_API_KEY) if key is None else (key.id, key.anonymous_scope)
    services.engine.submit(
        slot, pool, request.customer, key_id, idempotency_key, wish, request.order, key_scope, request.customer_text
    )

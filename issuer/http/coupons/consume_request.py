"""What a request to use a coupon asks for, and how the engine is asked for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

import orjson

from issuer.contract.events import encode_order
from issuer.contract.outcomes import COUPON_HTTP, Outcome
from issuer.coupons.coupon import CouponNotFoundError
from issuer.coupons.store import find_coupon
from issuer.engine.calls import Answer, Slot
from issuer.http.coupons.fields import (
    Fields,
    body_fields,
    code_field,
    id_field,
    merged,
    query_fields,
    text_field,
)
from issuer.http.fields import KEY_FORM, UUID_FORM
from issuer.http.problems.problem import invalid, outcome_problem
from issuer.http.redeem.answers import BAD_KEY_MESSAGE
from issuer.http.services import Services
from issuer.storage.postgres import unavailable_translated

FIELDS: Final = ("code", "product_id", "customer_id", "order_id", "client_id")

NO_ORDER: Final = encode_order("")
_NOT_FOUND: Final = Answer(Outcome.UNKNOWN_BATCH)


# Not frozen, for the same reason as Answer.
@dataclass(slots=True)
class ConsumeRequest:
    """One request to use a coupon, or to look at it. `client_id` None: whoever has such a coupon."""

    code: str
    product: bytes
    customer: bytes | None
    order: bytes
    client_id: UUID | None


def read_consume_request(values: Fields) -> ConsumeRequest:
    """Raises ProblemError. What comes again and again is checked once."""
    code, client = values.get("code"), values.get("client_id")
    product = text_field(values, "product_id") if "product_id" in values else None
    order = text_field(values, "order_id") if "order_id" in values else None
    return ConsumeRequest(
        _code(code) if type(code) is str else code_field(values),
        product.encode() if product else b"",
        _customer(values),
        encode_order(order) if order else NO_ORDER,
        _client(client) if type(client) is str else id_field(values, "client_id"),
    )


def read_small_request(url: bytes, body: bytes) -> ConsumeRequest:
    """The same of a whole request that is no multipart form, its fields read in the quickest way."""
    fields = _json_fields(body) if body.startswith(b"{") else body_fields(body)
    return read_consume_request(_query(url, tuple(fields)) | fields)


def _json_fields(body: bytes) -> Fields:
    try:
        fields: Fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid("cannot parse json", "unparsable_json") from error
    # A colon too many is in a value, or behind a name that is given twice, which orjson lets pass.
    return fields if len(fields) == body.count(b":") else body_fields(body)


@lru_cache(maxsize=1024)
def _query(url: bytes, names: tuple[str, ...]) -> Fields:
    """The fields of a query that has a body with these names behind it. Nobody changes what this returns.

    Raises ProblemError. The same coupon is asked for again and again, with the same fields.
    """
    query = query_fields(url.partition(b"?")[2].decode("ascii", "replace"))
    merged(query, dict.fromkeys(names), FIELDS)
    return query


@lru_cache(maxsize=4096)
def _code(text: str) -> str:
    return code_field({"code": text})


@lru_cache(maxsize=4096)
def _client(text: str) -> UUID | None:
    return id_field({"client_id": text}, "client_id")


def _customer(values: Fields) -> bytes | None:
    """Hardly ever the same twice, so no UUID is made of it where it is one."""
    text = values.get("customer_id")
    if type(text) is str and UUID_FORM.fullmatch(text) is not None:
        return bytes.fromhex(text.replace("-", ""))
    # Nothing, or something wrong.
    assert id_field(values, "customer_id") is None
    return None


def read_idempotency_key(last: bytes | None, given: int) -> str | None:
    """The key of a request that has so many of them. Raises ProblemError."""
    if last is None:
        return None
    if given > 1 or KEY_FORM.fullmatch(last) is None:
        raise invalid(BAD_KEY_MESSAGE, "invalid_idempotency_key")
    return last.decode("ascii")


async def find_client(services: Services, asked: ConsumeRequest, bound_to: UUID | None) -> UUID | None:
    """The client whose coupon is meant; None: there is none. Postgres is asked only where nobody says.

    Raises ManyClientsError, PostgresUnavailableError, and ProblemError where too many look-ups are under way.
    """
    if bound_to is not None or asked.client_id is not None:
        return named_client(asked, bound_to)
    if services.look_ups.locked():
        raise outcome_problem(Outcome.OVERLOADED, COUPON_HTTP)
    # For a connection of the pool, too, nobody waits longer than for an answer of Redis.
    async with unavailable_translated(), asyncio.timeout(services.settings.redeem_timeout_ms / 1000), services.look_ups:
        try:
            return (await find_coupon(services.stores.postgres, asked.code)).client_id
        except CouponNotFoundError:
            return None


def named_client(asked: ConsumeRequest, bound_to: UUID | None) -> UUID | None:
    """The client to which the key is bound or whom the request names; None: these are two."""
    if bound_to is None:
        return asked.client_id
    return bound_to if asked.client_id is None or asked.client_id == bound_to else None


def submit(
    services: Services, slot: Slot, asked: ConsumeRequest, client_id: UUID | None, api_key_id: int, key: str | None, *,
    look: bool = False,
) -> None:  # fmt: skip
    """Asks the engine, which puts the answer into `slot`."""
    if client_id is None:
        slot.set_result(_NOT_FOUND)
        return
    place, product = services.coupons.find(client_id, asked.code), asked.product
    wish = place.asked(product) if product else place.bare
    services.engine.submit(slot, place.look if look else place.use, asked.customer, api_key_id, key, wish, asked.order)

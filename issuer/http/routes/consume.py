"""/coupon/consume/: use a coupon, ask whether it could be used, give a use back.

A use is asked of the engine as a redemption is, and whole small requests come straight from the protocol in the same
way. Where the key is bound to a client, or the request names one, nothing but Redis is asked.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson
import structlog
from starlette.responses import Response

from issuer.api_keys import ApiKey
from issuer.calls import Answer, CouponWish, Slot
from issuer.coupons.coupon import CouponNotFoundError
from issuer.coupons.reversal import reverse_use
from issuer.coupons.store import find_coupon
from issuer.events import encode_order
from issuer.http.express import Exchange, Headers
from issuer.http.failures import problem_of
from issuer.http.guessing import Attempt, is_public
from issuer.http.metrics import INVALID, OF_COUPON
from issuer.http.problems import ProblemError, invalid
from issuer.http.routes.access import MAY_USE, MISSING_KEY, WRONG_SCOPE, Access, Call, Operation, ring_not_loaded
from issuer.http.routes.consume_answers import COUPON_REFUSALS, is_miss, look_answer, use_wire
from issuer.http.routes.coupon_fields import (
    Fields,
    body_fields,
    code_field,
    id_field,
    merged,
    query_fields,
    read_fields,
    text_field,
)
from issuer.http.routes.fields import answer, known_query
from issuer.http.routes.redeem_answers import CRASHED, Wire, to_wire
from issuer.http.services import Services
from issuer.instants import show_instant
from issuer.leases import Refused, Verdict
from issuer.outcomes import Outcome
from issuer.settings import Auth

if TYPE_CHECKING:
    from issuer.http.edge import GuardedHttpToolsProtocol

log = structlog.get_logger()

CONSUME_PATH: Final = "/coupon/consume/"
FIELDS: Final = ("code", "product_id", "customer_id", "order_id", "client_id")
_KNOWN: Final = frozenset(FIELDS)
REVERSAL_WAIT_S: Final = 5.0
"""How long a reversal waits for its consumption to reach the ledger."""
CRASH: Final = "CRASHED"

_IDEMPOTENCY_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
NO_ORDER: Final = encode_order("")
_COUNTED: Final = {outcome: OF_COUPON + outcome for outcome in (*Outcome, INVALID, CRASH)}
_NOT_FOUND: Final = Answer(Outcome.UNKNOWN_BATCH)


_UNAUTHORIZED: Final = to_wire(MISSING_KEY)
_FORBIDDEN: Final = to_wire(WRONG_SCOPE)
_NO_RING: Final = to_wire(ring_not_loaded())


class Asked(NamedTuple):
    """One request to use a coupon, or to look at it. `client_id` None: whoever has such a coupon."""

    code: str
    product: bytes
    customer: bytes | None
    order: bytes
    client_id: UUID | None


def read_asked(values: Fields) -> Asked:
    """Raises ProblemError. What comes again and again is checked once."""
    code, client = values.get("code"), values.get("client_id")
    product = text_field(values, "product_id") if "product_id" in values else None
    order = text_field(values, "order_id") if "order_id" in values else None
    return Asked(
        _code(code) if type(code) is str else code_field(values),
        product.encode() if product else b"",
        _customer(values),
        encode_order(order) if order else NO_ORDER,
        _client(client) if type(client) is str else id_field(values, "client_id"),
    )


@lru_cache(maxsize=4096)
def _code(text: str) -> str:
    return code_field({"code": text})


@lru_cache(maxsize=4096)
def _client(text: str) -> UUID | None:
    return id_field({"client_id": text}, "client_id")


def _customer(values: Fields) -> bytes | None:
    """Hardly ever the same twice, so no UUID is made of it where it is one."""
    text = values.get("customer_id")
    if type(text) is str and _UUID.fullmatch(text) is not None:
        return bytes.fromhex(text.replace("-", ""))
    # Nothing, or something wrong.
    assert id_field(values, "customer_id") is None
    return None


async def find_client(services: Services, asked: Asked, bound_to: UUID | None) -> UUID | None:
    """The client whose coupon is meant; None: there is none. Raises ManyClientsError, PostgresUnavailableError."""
    if bound_to is not None:
        return bound_to if asked.client_id in (None, bound_to) else None
    if asked.client_id is not None:
        return asked.client_id
    try:
        return (await find_coupon(services.stores.postgres, asked.code)).client_id
    except CouponNotFoundError:
        return None


def submit(
    services: Services, slot: Slot, asked: Asked, client_id: UUID | None, api_key_id: int, key: str | None, *,
    look: bool = False,
) -> None:  # fmt: skip
    """Asks the engine, which puts the answer into `slot`."""
    if client_id is None:
        slot.set_result(_NOT_FOUND)
        return
    place = services.coupons.find(client_id, asked.code)
    wish = CouponWish(place.folded, asked.product, asked.order)
    services.engine.submit(slot, place.look if look else place.use, asked.customer, api_key_id, key, wish)


async def _ask(call: Call, *, look: bool) -> Answer:
    values = await read_fields(call.request, FIELDS)
    asked = read_asked(values)
    key = None if look else _idempotency_key(call.request.headers.getlist("idempotency-key"))
    caller = call.caller
    with call.services.guesses.attempt(caller.key, caller.address, asked.customer) as attempt:
        client_id = await find_client(call.services, asked, caller.client_id)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        submit(call.services, future, asked, client_id, caller.api_key_id, key, look=look)
        given = await future
        if is_miss(given.outcome, public=is_public(caller.key)):
            await attempt.missed()
        return given


def _idempotency_key(given: list[str]) -> str | None:
    if not given:
        return None
    if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0].encode("latin-1")):
        raise invalid(
            "Idempotency-Key must be 1 to 255 printable ASCII characters, given once", "invalid_idempotency_key"
        )
    return given[0]


async def get_consume(call: Call) -> Response:
    """Changes nothing."""
    return answer(look_answer(await _ask(call, look=True), public=is_public(call.caller.key)))


async def post_consume(call: Call) -> Response:
    """What does not go the short way: chunked and large bodies, multipart forms, HTTP/1.0."""
    started = time.perf_counter()
    outcome: str = INVALID
    try:
        given = await _ask(call, look=False)
        outcome = given.outcome
        wire = use_wire(given, public=is_public(call.caller.key))
    finally:
        call.services.tally.count(_COUNTED[outcome], time.perf_counter() - started)
    headers = {name.decode(): value.decode() for name, value in wire.head.start["headers"]}
    return Response(wire.body, wire.head.status, headers)


async def post_reverse(call: Call) -> Response:
    known_query(call.request)
    done = await reverse_use(
        call.services.stores,
        str(call.request.path_params["consumption_id"]),
        client_id=call.caller.client_id,
        actor=call.caller.actor,
        wait_s=REVERSAL_WAIT_S,
    )
    return answer(
        {
            "reversed": True,
            "consumption_id": done.consumption_id,
            "code": done.code,
            "order_id": done.order_id,
            "reversed_at": show_instant(done.reversed_at),
        }
    )


@lru_cache(maxsize=4096)
def _query(url: bytes) -> Fields:
    """The same coupon is asked for again and again. Nobody changes what this returns."""
    return query_fields(url.partition(b"?")[2].decode("ascii", "replace"))


def _key_of(services: Services, headers: Headers) -> ApiKey | None:
    """The valid key that was sent; None: there is none, or none is asked for."""
    if services.settings.auth is Auth.OFF:
        return None
    authorization = next((value for name, value in reversed(headers) if name == b"authorization"), b"")
    secret = authorization[7:] if authorization[:7].lower() == b"bearer " else authorization
    return services.keys.find(secret.strip())


def _refusal_of(services: Services, api_key: ApiKey | None) -> Wire | None:
    """What to answer to somebody with this key who may not use coupons."""
    if services.settings.auth is Auth.OFF:
        return None
    if api_key is None:
        return _UNAUTHORIZED if services.keys.loaded else _NO_RING
    return None if api_key.scopes & MAY_USE else _FORBIDDEN


class ConsumeRoute:
    """What is behind the short way. Until `services` is set, which the lifespan does, it answers "not ready"."""

    def __init__(self) -> None:
        self.services: Services | None = None

    def exchange(self, protocol: GuardedHttpToolsProtocol) -> Exchange:
        """One request that comes straight from the protocol."""
        return ConsumeExchange(self, protocol)


class ConsumeExchange(Exchange):
    """One use without ASGI: begins when the request is there, ends when the engine has the answer."""

    __slots__ = ("_answered", "_attempt", "_headers", "_key", "_route", "_services", "_started", "_task", "_url")

    def __init__(self, route: ConsumeRoute, protocol: GuardedHttpToolsProtocol) -> None:
        super().__init__(protocol)
        self._route = route
        self._url = protocol.url
        self._services: Services | None = None
        self._key: ApiKey | None = None
        self._headers: Headers = []
        self._attempt: Attempt | None = None
        # The engine has answered; the client may have to wait until a miss is counted.
        self._answered = False
        self._started = 0.0
        self._task: asyncio.Task[None] | None = None

    def begin(self, headers: Headers, body: bytes) -> None:
        self._started = time.perf_counter()
        self._services = services = self._route.services
        if services is None:
            self._finish(Outcome.NOT_READY, COUPON_REFUSALS[Outcome.NOT_READY])
            return
        self._headers = headers
        try:
            self._key = _key_of(services, headers)
            if services.limits.passes(self._key, self._peer(), headers, self._enter):
                self._ask(services)
        except Exception as error:
            self._fail(error)

    def _peer(self) -> str | None:
        client = self.protocol.client
        return client[0] if client else None

    def _enter(self, verdict: Verdict) -> None:
        """Goes on when a rate limit has let the request in, or refused it."""
        services = self._services
        assert services is not None
        try:
            if isinstance(verdict, Refused):
                raise services.limits.refusal(verdict)
            self._ask(services)
        except Exception as error:
            self._fail(error)

    def _ask(self, services: Services) -> None:
        refusal = _refusal_of(services, self._key)
        if refusal is not None:
            self._finish(INVALID, refusal)
            return
        idempotency_key = _express_idempotency_key(self._headers)
        asked = read_asked(_merged(_query(self._url), _body(self.body)))
        address = services.limits.address_of(self._peer(), self._headers)
        attempt = services.guesses.attempt(self._key, address, asked.customer)
        attempt.begin()
        self._attempt = attempt
        bound_to, api_key_id = (None, 0) if self._key is None else (self._key.client_id, self._key.id)
        if bound_to is None and asked.client_id is None:
            self._start(self._find_and_submit(services, asked, api_key_id, idempotency_key), "find-coupon")
            return
        other = bound_to is not None and asked.client_id not in (None, bound_to)
        client_id = None if other else bound_to or asked.client_id
        submit(services, self, asked, client_id, api_key_id, idempotency_key)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(work, name=name)

    async def _find_and_submit(self, services: Services, asked: Asked, api_key_id: int, key: str | None) -> None:
        try:
            submit(services, self, asked, await find_client(services, asked, None), api_key_id, key)
        except Exception as error:
            self._fail(error)

    def done(self) -> bool:
        """What a client that has gone meanwhile asked for is carried out all the same, and counted."""
        return self._answered or self.response_complete

    def set_result(self, answer: Answer) -> None:
        self._answered = True
        try:
            if is_miss(answer.outcome, public=is_public(self._key)):
                self._start(self._tell_of_miss(answer), "count-miss")
            else:
                self._finish(answer.outcome, use_wire(answer))
        except Exception as error:
            self._fail(error)

    async def _tell_of_miss(self, answer: Answer) -> None:
        """Counts it first: who has guessed too often is not told."""
        try:
            if self._attempt is not None:
                await self._attempt.missed()
            self._finish(answer.outcome, use_wire(answer, public=is_public(self._key)))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        problem = error if isinstance(error, ProblemError) else problem_of(error)
        if problem is None:
            log.error("a request to use a coupon failed", exc_info=error)
        if not self.response_complete:
            self._finish(*((CRASH, CRASHED) if problem is None else (INVALID, to_wire(problem))))

    def _finish(self, outcome: str, wire: Wire) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.end()
        self.respond(wire.head.status, wire.head.lines, wire.body)
        if self._services is not None:
            self._services.tally.count(_COUNTED[outcome], time.perf_counter() - self._started)


def _express_idempotency_key(headers: Headers) -> str | None:
    return _idempotency_key([value.decode("latin-1") for name, value in headers if name == b"idempotency-key"])


def _merged(query: Fields, body: Fields) -> Fields:
    """As `merged`, but quicker where there is nothing to say."""
    values = query | body
    if len(values) < len(query) + len(body) or not values.keys() <= _KNOWN:
        return merged(query, body, FIELDS)
    return values


def _body(body: bytes) -> Fields:
    """As `body_fields`, but quicker where it can be."""
    if not body.startswith(b"{"):
        return body_fields(body) if body else {}
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid("cannot parse json", "unparsable_json") from error
    assert type(fields) is dict
    return fields


OPERATIONS: Final = (
    Operation("GET", CONSUME_PATH, get_consume, Access.USE),
    Operation("POST", CONSUME_PATH, post_consume, Access.USE),
    Operation("POST", "/coupon/consume/{consumption_id}/reverse", post_reverse, Access.REDEEM),
)

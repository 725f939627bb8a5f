"""POST /api/v1/code/redeem: the hot path, as a bare ASGI application.

No request or response objects, no validation library, no Postgres: bytes in, one call of the engine, bytes out.
Answers that do not depend on the request are made once.
"""

from __future__ import annotations

import math
import re
import time
from typing import Final
from uuid import UUID

import orjson
import structlog
from starlette.types import Message, Receive, Scope, Send

from issuer.api_keys import ApiKey
from issuer.api_keys import Scope as KeyScope
from issuer.engine import Answer, PoolRef
from issuer.instants import from_ms, show_instant
from issuer.metrics import INVALID
from issuer.outcomes import HTTP, Outcome
from issuer.problems import MEDIA_TYPE, ProblemError, invalid, outcome_problem, status_problem
from issuer.routes.access import MISSING_KEY, WRONG_SCOPE, ring_not_loaded
from issuer.services import Services
from issuer.settings import Auth, Settings

log = structlog.get_logger()

MAX_POOL_REFS: Final = 65_536
NOBODYS_CLIENT: Final = UUID(int=2**128 - 1)
"""Stands for a client that a bound key may not redeem for. Nobody has codes under it."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_IDEMPOTENCY_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
_JSON: Final = (b"content-type", b"application/json")

Wire = tuple[Message, Message]
"""A whole answer: its start and its body."""


class DisconnectedError(Exception):
    """The client is gone; nobody waits for an answer."""


def to_wire(problem: ProblemError) -> Wire:
    body = problem.body()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    return (
        {"type": "http.response.start", "status": problem.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


UNPARSABLE: Final = to_wire(invalid("cannot parse json", "unparsable_json"))
BAD_BATCH: Final = to_wire(invalid("invalid batch_id format", "invalid_batch_id"))
BAD_CLIENT: Final = to_wire(invalid("invalid client_id format", "invalid_client_id"))
BAD_CUSTOMER: Final = to_wire(invalid("invalid customer_id format", "invalid_customer_id"))
BAD_KEY: Final = to_wire(
    invalid("Idempotency-Key must be 1 to 255 printable ASCII characters, given once", "invalid_idempotency_key")
)
TOO_LARGE: Final = to_wire(status_problem(413))
CRASHED: Final = to_wire(ProblemError(500, "internal error", "internal_error"))
UNAUTHORIZED: Final = to_wire(MISSING_KEY)
FORBIDDEN: Final = to_wire(WRONG_SCOPE)
NO_RING: Final = to_wire(ring_not_loaded())
REFUSALS: Final = {outcome: to_wire(outcome_problem(outcome)) for outcome in HTTP}


class RedeemRoute:
    """The application behind the route. Until `services` is set, which the lifespan does, it answers "not ready"."""

    def __init__(self, settings: Settings) -> None:
        self.services: Services | None = None
        self._auth = settings.auth is Auth.ON
        self._max_body_bytes = settings.max_body_bytes
        self._pools: dict[tuple[str, str], PoolRef] = {}
        # By length of the body: (plain, replayed).
        self._granted: dict[int, tuple[Message, Message]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        services = self.services
        try:
            if services is None:
                outcome, wire = str(Outcome.NOT_READY), REFUSALS[Outcome.NOT_READY]
            else:
                outcome, wire = await self._answer(services, scope, receive)
        except DisconnectedError:
            return
        except Exception:
            log.exception("a request to redeem failed")
            outcome, wire = "CRASHED", CRASHED
        await send(wire[0])
        await send(wire[1])
        if services is not None:
            services.tally.count(outcome, time.perf_counter() - started)

    async def _answer(self, services: Services, scope: Scope, receive: Receive) -> tuple[str, Wire]:
        authorization, idempotency_key, keys_given = b"", None, 0
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"idempotency-key":
                idempotency_key = value
                keys_given += 1
        api_key: ApiKey | None = None
        if self._auth:
            if authorization[:7].lower() == b"bearer ":
                api_key = services.keys.find(authorization[7:].strip())
            if api_key is None:
                return INVALID, UNAUTHORIZED if services.keys.loaded else NO_RING
            if KeyScope.REDEEM not in api_key.scopes:
                return INVALID, FORBIDDEN
        body = await self._read(receive)
        if body is None:
            return INVALID, TOO_LARGE
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            return INVALID, UNPARSABLE
        if type(fields) is not dict:
            return INVALID, UNPARSABLE
        return await self._redeem(services, fields, api_key, idempotency_key, keys_given)

    async def _redeem(
        self,
        services: Services,
        fields: dict[str, object],
        api_key: ApiKey | None,
        idempotency_key: bytes | None,
        keys_given: int,
    ) -> tuple[str, Wire]:
        batch, client, customer = fields.get("batchid"), fields.get("clientid"), fields.get("customerid")
        # What is in the cache was valid when it came in.
        pool = self._pools.get((batch, client)) if type(batch) is str and type(client) is str else None
        if pool is None:
            if type(batch) is not str or _UUID.fullmatch(batch) is None:
                return INVALID, BAD_BATCH
            if type(client) is not str or _UUID.fullmatch(client) is None:
                return INVALID, BAD_CLIENT
        if type(customer) is not str or _UUID.fullmatch(customer) is None:
            return INVALID, BAD_CUSTOMER
        assert type(batch) is str
        assert type(client) is str
        if keys_given and (keys_given > 1 or not idempotency_key or not _IDEMPOTENCY_KEY.fullmatch(idempotency_key)):
            return INVALID, BAD_KEY
        if api_key is not None and api_key.client_id is not None and UUID(client) != api_key.client_id:
            # Goes the same way as a client without codes, so that nothing tells them apart.
            pool, idempotency_key = services.engine.pool_ref(UUID(batch), NOBODYS_CLIENT), None
        elif pool is None:
            pool = self._pool(services, batch, client)
        answer = await services.engine.redeem(
            pool,
            bytes.fromhex(customer.replace("-", "")),
            api_key_id=0 if api_key is None else api_key.id,
            idempotency_key=None if idempotency_key is None else idempotency_key.decode("ascii"),
        )
        return answer.outcome, self._wire(answer)

    def _pool(self, services: Services, batch: str, client: str) -> PoolRef:
        if len(self._pools) >= MAX_POOL_REFS:
            self._pools.clear()
        pool = services.engine.pool_ref(UUID(batch), UUID(client))
        # The number of partitions is what the installation says, and that is known once Redis is reached.
        if services.engine.is_ready:
            self._pools[batch, client] = pool
        return pool

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or None when it is larger than allowed."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        body: bytes = message.get("body", b"")
        while message.get("more_body"):
            if len(body) > self._max_body_bytes:
                return None
            message = await receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            body += message.get("body", b"")
        return body if len(body) <= self._max_body_bytes else None

    def _wire(self, answer: Answer) -> Wire:
        outcome = answer.outcome
        if outcome is Outcome.GRANTED or outcome is Outcome.REPLAYED:
            body = orjson.dumps({"code": answer.code})
            starts = self._granted.get(len(body))
            if starts is None:
                starts = self._granted[len(body)] = _starts(len(body))
            return starts[outcome is Outcome.REPLAYED], {"type": "http.response.body", "body": body}
        if answer.retry_at_ms is not None:
            return to_wire(limit_problem(answer.retry_at_ms))
        return REFUSALS[outcome]


def _starts(length: int) -> tuple[Message, Message]:
    headers = [_JSON, (b"content-length", b"%d" % length)]
    plain = {"type": "http.response.start", "status": 200, "headers": headers}
    return plain, {**plain, "headers": [*headers, (b"idempotency-replayed", b"true")]}


def limit_problem(retry_at_ms: int) -> ProblemError:
    """The refusal of a customer whose limit opens again at `retry_at_ms`."""
    problem = outcome_problem(Outcome.LIMIT_REACHED)
    retry_at = show_instant(from_ms(retry_at_ms))
    problem.detail = f"{problem.error}: the next redemption is possible at {retry_at}"
    problem.members["retry_at"] = retry_at
    problem.headers["Retry-After"] = str(max(1, math.ceil(retry_at_ms / 1000 - time.time())))
    return problem

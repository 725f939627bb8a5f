"""POST /api/v1/code/redeem: one code of a pool for one customer.

No request or response objects, no validation library, no Postgres: bytes in, one call of the engine, bytes out.
"""

from __future__ import annotations

from typing import ClassVar, Final
from uuid import UUID

import orjson

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import BOUND, Answer, PoolRef
from issuer.engine.pool_refs import PoolRefs
from issuer.http.auth import SCOPES, Access
from issuer.http.edge.exchange import Connection
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.fields import UUID_FORM
from issuer.http.hot_exchange import HotExchange, HotRoute
from issuer.http.idempotency import read_idempotency_key
from issuer.http.redeem.answers import BAD_BATCH, BAD_CLIENT, BAD_CUSTOMER, UNPARSABLE, answer_wire
from issuer.http.services import Services
from issuer.http.wire import Wire

REDEEM_PATH: Final = "/api/v1/code/redeem"
NO_CODE: Final = Answer(Outcome.SOLD_OUT)


class RedeemRoute(HotRoute):
    """The route, with the pools that its requests named. A bound key has pools of its own: it sees less of a batch."""

    path: ClassVar[str] = REDEEM_PATH

    def __init__(self) -> None:
        super().__init__()
        self._pools: PoolRefs[tuple[str, str], PoolRef] = PoolRefs()
        self._bound_pools: PoolRefs[tuple[str, str], PoolRef] = PoolRefs()

    def exchange(self, connection: Connection, fields: HeaderFields) -> HotExchange:
        return RedeemExchange(self, connection, fields)

    def submit(self, services: Services, exchange: RedeemExchange, body: bytes) -> None:
        """Parse the body and submit the redemption, or refuse it. Raises ProblemError for an Idempotency-Key."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            exchange.refuse(UNPARSABLE)
            return
        if type(fields) is not dict:
            exchange.refuse(UNPARSABLE)
            return
        batch, client, customer = fields.get("batchid"), fields.get("clientid"), fields.get("customerid")
        key = exchange.key
        bound_to = None if key is None else key.client_id
        pools = self._pools if bound_to is None else self._bound_pools
        # Ids in the cache were valid when they were added.
        pool = pools.find((batch, client)) if type(batch) is str and type(client) is str else None
        if pool is None:
            if type(batch) is not str or UUID_FORM.fullmatch(batch) is None:
                exchange.refuse(BAD_BATCH)
                return
            if type(client) is not str or UUID_FORM.fullmatch(client) is None:
                exchange.refuse(BAD_CLIENT)
                return
        if type(customer) is not str or UUID_FORM.fullmatch(customer) is None:
            exchange.refuse(BAD_CUSTOMER)
            return
        assert batch is not None
        assert client is not None
        idempotency_key = read_idempotency_key(exchange.fields)
        if bound_to is not None and UUID(client) != bound_to:
            # Nothing of another client is looked up, so the answer reveals nothing about it.
            exchange.set_result(NO_CODE)
            return
        if pool is None:
            ref = services.engine.pool_ref(UUID(batch), UUID(client), flags=0 if bound_to is None else BOUND)
            pool = pools.add(services.engine, (batch, client), ref)
        services.engine.submit(
            exchange, pool, bytes.fromhex(customer.replace("-", "")), 0 if key is None else key.id, idempotency_key
        )


class RedeemExchange(HotExchange):
    """One redemption."""

    __slots__ = ()

    route: RedeemRoute
    scopes = SCOPES[Access.REDEEM]

    def receive(self, body: bytes) -> None:
        assert self.services is not None
        self.route.submit(self.services, self, body)

    def answer_wire(self, answer: Answer) -> Wire:
        return answer_wire(answer)

"""POST /api/v1/code/redeem: one code of a pool for one customer.

No request or response objects, no validation library, no Postgres: bytes in, one call of the engine, bytes out.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import BOUND, Answer, PoolRef
from issuer.engine.pool_refs import PoolRefs
from issuer.http.auth import BOUND_KEY, SCOPES, Access
from issuer.http.edge.exchange import Connection
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.fields import identify, uuid_of
from issuer.http.hot_exchange import HotExchange, HotRoute
from issuer.http.idempotency import read_idempotency_key
from issuer.http.redeem.answers import answer_wire
from issuer.http.services import Services
from issuer.http.strict_json import parse_object
from issuer.ids import MAX_ID

REDEEM_PATH: Final = "/api/v1/code/redeem"
NO_CODE: Final = Answer(Outcome.SOLD_OUT)


class RedeemRoute(HotRoute):
    """The route, with the pools that its requests named. A bound key has pools of its own: it sees less of a batch."""

    path: ClassVar[str] = REDEEM_PATH

    def __init__(self) -> None:
        super().__init__()
        self.pools: PoolRefs[tuple[str, str], PoolRef] = PoolRefs()
        self.bound_pools: PoolRefs[tuple[str, str], PoolRef] = PoolRefs()

    def exchange(self, connection: Connection, fields: HeaderFields) -> HotExchange:
        exchange = RedeemExchange(connection, fields)
        exchange.route = self
        return exchange


class RedeemExchange(HotExchange):
    """One redemption."""

    __slots__ = ()

    route: RedeemRoute
    scopes = SCOPES[Access.REDEEM]
    answer_wire = staticmethod(answer_wire)

    def receive(self, body: bytes) -> None:
        members = parse_object(body)
        batch: Any = members.get("batchid")
        client: Any = members.get("clientid")
        services, key = self.services, self.key
        assert services is not None
        bound_to = None if key is None else key.client_id
        if client is None:
            client = services.settings.default_client if bound_to is None else str(bound_to)
        pools = self.route.pools if bound_to is None else self.route.bound_pools
        try:
            # Ids in the cache were valid when they were added.
            pool = pools.find((batch, client))
        except TypeError:
            # A list or an object: no id, and no key of a dictionary.
            pool = None
        if pool is None:
            pool = new_pool(services, pools, batch, client, flags=0 if bound_to is None else BOUND)
        customer = identify(services.stores, members.get("customerid"), "customer_id")
        idempotency_key = read_idempotency_key(self.fields)
        if bound_to is not None and identify(services.stores, client, "client_id").packed != bound_to.bytes:
            # Nothing of another client is looked up, so the answer reveals nothing about it.
            self.log_refusal(BOUND_KEY)
            self.set_result(NO_CODE)
            return
        services.engine.submit(
            self, pool, customer.packed, 0 if key is None else key.id, idempotency_key, customer_text=customer.text
        )


def new_pool(
    services: Services, pools: PoolRefs[tuple[str, str], PoolRef], batch: object, client: object, *, flags: int
) -> PoolRef:
    """Return the pool that a request names, and cache it. Raises ProblemError for what is no id."""
    batch_id = uuid_of(batch, "batch_id")
    pool = services.engine.pool_ref(batch_id, identify(services.stores, client, "client_id").uuid, flags=flags)
    # A spelling with many invisible characters would fill the memory.
    if isinstance(batch, str) and isinstance(client, str) and len(client) <= MAX_ID:
        pools.add(services.engine, (batch, client), pool)
    return pool

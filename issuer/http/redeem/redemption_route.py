"""POST /api/v1/redemptions: one code for one customer, all named as the caller names them.

It redeems as the predecessor's route does (`issuer.http.redeem.route`) and answers more. No request waits for Postgres,
but the first ones that use the name of a batch: its meaning is then kept in memory (`issuer.batches.name_cache`); and
refusals that may be due to a client that is not registered (`issuer.clients.registered`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final
from uuid import UUID

from issuer.batches.name_cache import BatchName
from issuer.batches.named import AmbiguousNameError
from issuer.clients.registry import unknown_client
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import BOUND, Answer, PoolRef
from issuer.engine.pool_refs import PoolRefs
from issuer.http.auth import BOUND_KEY, SCOPES, Access
from issuer.http.edge.exchange import Connection
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.hot_exchange import HotExchange, HotRoute
from issuer.http.idempotency import read_idempotency_key
from issuer.http.naming import TWO_BATCHES
from issuer.http.problems.problem import ProblemError, invalid
from issuer.http.redeem.answers import redemption_wire, refusal_wire
from issuer.http.redeem.redemption_request import RedemptionRequest, read_redemption_request, unknown_batch
from issuer.http.services import Services
from issuer.http.strict_json import parse_object
from issuer.http.wire import Wire, prebuilt
from issuer.names import MAX_NAME

REDEMPTIONS_PATH: Final = "/api/v1/redemptions"
NO_BATCH: Final = Answer(Outcome.UNKNOWN_BATCH)
OTHER_CLIENT: Final = prebuilt(
    ProblemError(403, BOUND_KEY.error, BOUND_KEY.code, detail="the api key is bound to another client")
)


@dataclass(frozen=True, slots=True)
class NamedPool:
    """A pool, and the id of its batch as an answer has it."""

    pool: PoolRef
    batch_id: str


class RedemptionRoute(HotRoute):
    """The route, with the pools that its requests named: by batch, client, and whether the key is bound."""

    path: ClassVar[str] = REDEMPTIONS_PATH

    def __init__(self) -> None:
        super().__init__()
        self.pools: PoolRefs[tuple[UUID, bytes, bool], NamedPool] = PoolRefs()

    def exchange(self, connection: Connection, fields: HeaderFields) -> HotExchange:
        exchange = RedemptionExchange(connection, fields)
        exchange.route = self
        return exchange


class RedemptionExchange(HotExchange):
    """One redemption."""

    __slots__ = ("_batch_id", "_request")

    route: RedemptionRoute
    scopes = SCOPES[Access.REDEEM]
    _batch_id: str
    _request: RedemptionRequest

    def receive(self, body: bytes) -> None:
        services, key = self.services, self.key
        assert services is not None
        if b"?" in self.url:
            raise invalid("unknown query parameter; this path takes none")
        bound_to = None if key is None else key.client_id
        self._request = request = read_redemption_request(services, parse_object(body), bound_to)
        idempotency_key = read_idempotency_key(self.fields)
        if bound_to is not None and request.client != bound_to.bytes:
            # Nothing of another client is looked up, so the answer reveals nothing about it.
            self.refuse(OTHER_CLIENT)
        elif request.batch_name is None:
            assert request.batch_id is not None
            self._submit(services, request, request.batch_id, idempotency_key)
        else:
            self._find_batch(services, request, request.batch_name, idempotency_key)

    def _find_batch(
        self, services: Services, request: RedemptionRequest, name: str, idempotency_key: str | None
    ) -> None:
        if len(name) > MAX_NAME or "\0" in name:
            self.set_result(NO_BATCH)
            return
        named: BatchName = (request.client, name)
        ids = services.batch_names.find(named)
        if ids is None:
            services.batch_names.start_look_up(
                named, lambda found: self._looked_up(services, request, found, idempotency_key)
            )
        else:
            self._choose(services, request, ids, idempotency_key)

    def _looked_up(
        self,
        services: Services,
        request: RedemptionRequest,
        found: tuple[UUID, ...] | Exception | None,
        idempotency_key: str | None,
    ) -> None:
        if self.response_complete:
            return
        try:
            if isinstance(found, Exception):
                raise found
            if found is None:
                self.set_result(NO_BATCH)
            else:
                self._choose(services, request, found, idempotency_key)
        except Exception as error:
            self.fail(error)

    def _choose(
        self, services: Services, request: RedemptionRequest, ids: tuple[UUID, ...], idempotency_key: str | None
    ) -> None:
        """Redeem in the batch that the name stands for. Raises ProblemError, AmbiguousNameError."""
        if request.batch_id is not None:
            if request.batch_id not in ids:
                raise TWO_BATCHES
            ids = (request.batch_id,)
        if len(ids) > 1:
            raise AmbiguousNameError(request.batch_name or "", ids)
        self._submit(services, request, ids[0], idempotency_key)

    def _submit(
        self, services: Services, request: RedemptionRequest, batch_id: UUID, idempotency_key: str | None
    ) -> None:
        key, customer = self.key, request.customer
        is_bound = key is not None and key.client_id is not None
        place = (batch_id, request.client, is_bound)
        named = self.route.pools.find(place)
        if named is None:
            client_id = UUID(bytes=request.client)
            pool = services.engine.pool_ref(batch_id, client_id, flags=BOUND if is_bound else 0)
            named = self.route.pools.add(services.engine, place, NamedPool(pool, str(batch_id)))
        self._batch_id = named.batch_id
        services.engine.submit(
            self, named.pool, customer.packed, 0 if key is None else key.id, idempotency_key,
            customer_text=customer.text,
        )  # fmt: skip

    def set_result(self, answer: Answer) -> None:
        if answer.outcome is Outcome.SOLD_OUT or answer.outcome is Outcome.UNKNOWN_BATCH:
            self._refuse_after_look_up(answer)
        else:
            super().set_result(answer)

    def _refuse_after_look_up(self, answer: Answer) -> None:
        """Refuse a request for which there is no code: as one for an unknown client, if its client is not registered.

        The holder of a bound key does not learn which clients there are.
        """
        services, client, text = self.services, self._request.client, self._request.client_text
        assert services is not None
        is_bound = self.key is not None and self.key.client_id is not None
        if text is None or is_bound or services.registered_clients.knows(client):
            super().set_result(answer)
            return

        def refuse(found: bool | Exception | None) -> None:
            if self.response_complete:
                return
            if found is None:
                problem = ProblemError(404, unknown_client(text), "client_not_found")
                self.finish(answer.outcome, self.problem_wire(problem))
            else:
                # Also where Postgres does not answer: then the refusal says less.
                HotExchange.set_result(self, answer)

        services.registered_clients.start_look_up(client, refuse)

    def answer_wire(self, answer: Answer) -> Wire:
        if answer.outcome is Outcome.UNKNOWN_BATCH:
            return self.problem_wire(unknown_batch(self._request))
        if answer.outcome is not Outcome.GRANTED and answer.outcome is not Outcome.REPLAYED:
            return refusal_wire(answer)
        assert self.services is not None
        return redemption_wire(answer, self._batch_id, self.services.stores.incarnations.installation_id)

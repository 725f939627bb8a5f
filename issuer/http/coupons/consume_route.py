"""POST /coupon/consume/: one use of a coupon. Multipart forms are served by `consume`, all other requests here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import ClassVar, Final
from uuid import UUID

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.http.auth import SCOPES, Access
from issuer.http.coupons.consume_answers import COUPON_NOT_READY, is_failed_lookup, use_wire
from issuer.http.coupons.consume_request import (
    ConsumeRequest,
    find_client,
    named_client,
    read_small_request,
    submit,
)
from issuer.http.edge.exchange import Connection
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.hot_exchange import HotExchange, HotRoute
from issuer.http.idempotency import read_idempotency_key
from issuer.http.limiting.failed_lookups import FailedLookups, is_public
from issuer.http.metrics.exposition import CRASH, INVALID
from issuer.http.metrics.tally import OF_COUPON
from issuer.http.services import Services
from issuer.http.wire import Wire

CONSUME_PATH: Final = "/coupon/consume/"
COUNTED: Final = {outcome: OF_COUPON + outcome for outcome in (*Outcome, INVALID, CRASH)}
"""The names under which outcomes of consumptions are counted."""


class ConsumeRoute(HotRoute):
    path: ClassVar[str] = CONSUME_PATH

    def exchange(self, connection: Connection, fields: HeaderFields) -> HotExchange | None:
        if fields.get(b"content-type", b"")[:10].lower() == b"multipart/":
            return None
        exchange = ConsumeExchange(connection, fields)
        exchange.route = self
        exchange.lookups = ()
        return exchange


class ConsumeExchange(HotExchange):
    """One use. As a LookupSubject it is whom failed lookups are counted for.

    `lookups`: the failed lookups that it was admitted beside, while it may fail, too.
    """

    __slots__ = ("_answered", "_submitted", "_task", "customer", "lookups")

    scopes = SCOPES[Access.USE]
    customer: bytes | None
    lookups: Sequence[FailedLookups]
    _task: asyncio.Task[None]
    _submitted: tuple[ConsumeRequest, UUID, str | None] | None
    """What was submitted, while the coupon may still be a case-sensitive one."""
    _answered: bool
    """The engine has answered; the client may have to wait until a failed lookup is counted."""

    @property
    def address(self) -> str:
        """The address for which failed lookups are counted."""
        assert self.services is not None
        return self.services.limits.address_of(self.peer, self.headers)

    def receive(self, body: bytes) -> None:
        services, key = self.services, self.key
        assert services is not None
        self._submitted, self._answered = None, False
        idempotency_key = read_idempotency_key(self.fields)
        request = read_small_request(services.stores, self.url, body, self.fields.get(b"content-type", b""))
        self.customer = request.customer
        # Before the look-up: a caller over the limit must not learn whether its code exists.
        self.lookups = services.lookup_limits.begin(self)
        bound_to = None if key is None else key.client_id
        if bound_to is None and request.client_id is None:
            self._start(self._find_and_submit(services, request, idempotency_key), "find-coupon")
        else:
            self._submit(services, request, named_client(request, bound_to), idempotency_key)

    def _submit(
        self, services: Services, request: ConsumeRequest, client_id: UUID | None, idempotency_key: str | None
    ) -> None:
        if client_id is not None:
            self._submitted = request, client_id, idempotency_key
        submit(services, self, request, client_id, self.key, idempotency_key)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(work, name=name)

    async def _find_and_submit(self, services: Services, request: ConsumeRequest, idempotency_key: str | None) -> None:
        try:
            client_id = await find_client(services, request, None)
            if self.disconnected:
                # Nothing was sent to Redis yet, and no answer can be sent to the client.
                self.finish(Outcome.NOT_READY, COUPON_NOT_READY)
            else:
                self._submit(services, request, client_id, idempotency_key)
        except Exception as error:
            self.fail(error)

    def done(self) -> bool:
        return self._answered or self.response_complete

    def set_result(self, answer: Answer) -> None:
        outcome = answer.outcome
        try:
            if outcome is Outcome.UNKNOWN_BATCH and self._submitted is not None:
                self._submit_case_sensitive(*self._submitted)
                return
            self._answered = True
            if outcome is not Outcome.GRANTED and is_failed_lookup(outcome, public=is_public(self.key)):
                self._start(self._count_failed_lookup(answer), "count-failed-lookup")
            else:
                self.finish(outcome, use_wire(answer))
        except Exception as error:
            self.fail(error)

    def _submit_case_sensitive(self, request: ConsumeRequest, client_id: UUID, idempotency_key: str | None) -> None:
        assert self.services is not None
        self._submitted = None
        submit(self.services, self, request, client_id, self.key, idempotency_key, case_sensitive=True)

    async def _count_failed_lookup(self, answer: Answer) -> None:
        """Count it, then answer: a caller over the limit gets a 429 instead, whatever the lookup found."""
        try:
            assert self.services is not None
            await self.services.lookup_limits.charge(self)
            self.finish(answer.outcome, self.answer_wire(answer))
        except Exception as error:
            self.fail(error)

    def answer_wire(self, answer: Answer) -> Wire:
        return use_wire(answer, public=is_public(self.key))

    def finish(self, outcome: str, wire: Wire) -> None:
        lookups, services = self.lookups, self.services
        if lookups and services is not None:
            self.lookups = ()
            services.lookup_limits.end(lookups)
        HotExchange.finish(self, COUNTED[outcome], wire)

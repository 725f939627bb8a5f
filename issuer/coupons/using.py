"""Use a coupon from a command: one request to an engine of its own, decided by the same script as all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import orjson

from issuer.contract.events import encode_order
from issuer.contract.outcomes import COUPON_HTTP, Outcome
from issuer.coupons.coupon import Coupon, CouponError
from issuer.coupons.locations import CouponLocations
from issuer.coupons.uses import use_id
from issuer.engine.calls import Answer, UseAnswer
from issuer.engine.engine import Engine
from issuer.ids import Identity
from issuer.instants import from_ms, show_instant
from issuer.registration.registrar import Registrar
from issuer.storage.stores import Stores

_REGISTRATION_LIMIT_S: Final = 5.0
NO_KEY: Final = 0
"""In place of the id of an API key, in the ledger."""
_POLL_S: Final = 0.01


class UseRefusedError(CouponError):
    """The coupon cannot be used; the message says why."""


async def use_coupon(
    stores: Stores,
    coupon: Coupon,
    *,
    customer: Identity | None = None,
    product_id: str = "",
    order_id: str = "",
    idempotency_key: str | None = None,
) -> dict[str, Any]:
    """Use a coupon once. Return what the API answers. Raises UseRefusedError."""
    async with _registered_engine(stores) as engine:
        location = CouponLocations(engine).find(coupon.client_id, coupon.code, case_sensitive=coupon.case_sensitive)
        given: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        engine.submit(
            given,
            location.use,
            None if customer is None else customer.packed,
            NO_KEY,
            idempotency_key,
            location.wish(product_id.encode()),
            encode_order(order_id),
            customer_text=None if customer is None else customer.text,
        )
        answer = await given
    if answer.outcome not in (Outcome.GRANTED, Outcome.REPLAYED):
        again = "" if answer.retry_at_ms is None else f"; again from {show_instant(from_ms(answer.retry_at_ms))}"
        raise UseRefusedError(COUPON_HTTP[answer.outcome].error + again)
    assert isinstance(answer, UseAnswer)
    assert answer.uses is not None
    consumption_id = use_id(answer.uses, answer.number).decode()
    return {"consumed": True, "consumption_id": consumption_id, **orjson.loads(answer.uses.terms)}


@asynccontextmanager
async def _registered_engine(stores: Stores) -> AsyncIterator[Engine]:
    """An engine that is registered as that of an API process is; if that takes too long its answers are NOT_READY."""
    engine = Engine(stores.settings, stores.incarnations)
    await engine.start()
    async with Registrar(stores.settings, stores.postgres, stores.incarnations, engine).registered():
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_REGISTRATION_LIMIT_S):
                    while not engine.is_ready:
                        await asyncio.sleep(_POLL_S)
            yield engine
        finally:
            await engine.aclose()

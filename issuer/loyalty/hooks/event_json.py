"""Events as the inbox stores them. Amounts are texts, so that they stay exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any, Final

import orjson

from issuer.loyalty.hooks.events import (
    CustomerErased,
    DataRequested,
    OrderCancelled,
    OrderPaid,
    OrderRefunded,
    ShopCustomer,
    ShopEvent,
)

_KINDS: Final[dict[str, type[ShopEvent]]] = {
    "order_paid": OrderPaid,
    "order_refunded": OrderRefunded,
    "order_cancelled": OrderCancelled,
    "customer_erased": CustomerErased,
    "data_requested": DataRequested,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}
_AMOUNTS: Final = ("amount", "tax")


def dump_events(events: Sequence[ShopEvent]) -> str:
    return orjson.dumps([{"event": _NAMES[type(event)], **asdict(event)} for event in events], default=str).decode()


def load_events(text: str) -> list[ShopEvent]:
    """Return the events of `dump_events`."""
    return [_load(values) for values in orjson.loads(text)]


def _load(values: dict[str, Any]) -> ShopEvent:
    kind = _KINDS[values["event"]]
    read = {field.name: values[field.name] for field in fields(kind)}
    for name in _AMOUNTS:
        if name in read:
            read[name] = Decimal(read[name])
    if "customer" in read:
        read["customer"] = ShopCustomer(**read["customer"])
    return kind(**read)

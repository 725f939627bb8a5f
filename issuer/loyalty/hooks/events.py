"""What a delivery of a shop says, in one form for all shops. Amounts are decimals in the order's currency."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias


class ShopKind(StrEnum):
    """Whose deliveries an endpoint takes."""

    SHOPIFY = "shopify"
    WOOCOMMERCE = "woocommerce"
    SQUARE = "square"
    STANDARD = "standard"


@dataclass(frozen=True, slots=True)
class ShopCustomer:
    """The customer as the shop knows them. It is personal data: it is part of no repr.

    `ref` of a shop's own customer id begins with the kind of shop (`shopify:207119551`), so that the numbers of two
    shops never name the same member.
    """

    email: str | None = None
    ref: str | None = None
    card: str | None = None

    def __repr__(self) -> str:
        return "ShopCustomer(…)"

    def __bool__(self) -> bool:
        return any((self.email, self.ref, self.card))


@dataclass(frozen=True, slots=True)
class OrderPaid:
    """An order was paid. `amount`: what earns points, before tax and shipping.

    `includes_tax`: whether the prices of the order, and so those of its refunds, include tax.
    """

    order_id: str
    amount: Decimal
    currency: str
    customer: ShopCustomer
    includes_tax: bool = False


@dataclass(frozen=True, slots=True)
class OrderRefunded:
    """A part of an order was refunded. `refund_id` names the refund within the order, so that it counts once.

    `tax`: the tax of that part, which `amount` includes if the order's prices include tax. `currency` None: it is not
    stated, so it is that of the order.
    """

    order_id: str
    refund_id: str
    amount: Decimal
    tax: Decimal = Decimal(0)
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    """The order was cancelled, or refunded as a whole: what is left of it counts no longer."""

    order_id: str


@dataclass(frozen=True, slots=True)
class CustomerErased:
    """The shop asks to erase the customer."""

    customer: ShopCustomer


@dataclass(frozen=True, slots=True)
class DataRequested:
    """The customer asks the shop for their data. An operator answers it."""

    customer: ShopCustomer


OrderEvent: TypeAlias = OrderPaid | OrderRefunded | OrderCancelled
ShopEvent: TypeAlias = OrderEvent | CustomerErased | DataRequested

MAX_TEXT: Final = 255


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a shop. `id`: deliveries with the same id say the same, and only the first counts.

    `note`: why a delivery without events has none. `message_id`: the shop's id of this delivery, for its support.
    """

    id: str
    topic: str
    events: tuple[ShopEvent, ...] = ()
    note: str = ""
    message_id: str | None = None

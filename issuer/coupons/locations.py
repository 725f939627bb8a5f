"""Where coupons lie in Redis, by client and code as it is given: worked out once, without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.coupons.folding import coupon_id, fold, fold_fully
from issuer.engine.calls import LOOK, USE, PoolRef, ask_for_coupon
from issuer.engine.engine import Engine

MAX_LOCATIONS: Final = 65_536


@dataclass(frozen=True, slots=True)
class CouponLocation:
    """Of a coupon, whether or not there is one. `folded`: the code as the script compares it.

    `bare`: what the script is to read where no product is named.
    """

    use: PoolRef
    look: PoolRef
    folded: bytes
    bare: bytes

    def asked(self, product: bytes) -> bytes:
        """What the script is to read: the code and the product."""
        return ask_for_coupon(self.folded, product)


class CouponLocations:
    """The places that were asked for last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A number is found much faster than an id, and its hash is made in C.
        self._places: dict[tuple[int, str], CouponLocation] = {}

    def find(self, client_id: UUID, code: str) -> CouponLocation:
        place = self._places.get((client_id.int, code))
        if place is None:
            place = self._make(client_id, code)
            if len(self._places) >= MAX_LOCATIONS:
                self._places.clear()
            # The number of partitions is what the installation says, and that is known once Redis is reached.
            if self._engine.is_ready:
                self._places[client_id.int, code] = place
        return place

    def _make(self, client_id: UUID, code: str) -> CouponLocation:
        folded = fold(code)
        name = folded.encode()
        batch_id = coupon_id(client_id, fold_fully(folded))
        use, look = (self._engine.pool_ref(batch_id, client_id, flags=flags) for flags in (USE, LOOK))
        return CouponLocation(use, look, name, ask_for_coupon(name, b""))

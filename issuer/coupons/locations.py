"""Where coupons are in Redis, by client and code as requests spell them: computed once, without asking any store."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from issuer.coupons.folding import case_sensitive_id, coupon_id, fold, fold_fully
from issuer.engine.calls import LOOK, USE, PoolRef, coupon_wish
from issuer.engine.engine import Engine
from issuer.engine.pool_refs import PoolRefs


@dataclass(frozen=True, slots=True)
class CouponLocation:
    """The location of a coupon, whether or not it exists. `folded`: the code as the script compares it.

    `bare_wish`: the wish that the script gets where the request names no product.
    """

    use: PoolRef
    look: PoolRef
    folded: bytes
    bare_wish: bytes

    def wish(self, product: bytes) -> bytes:
        """Return what the script gets of a request that names a product."""
        return coupon_wish(self.folded, product)


class CouponLocations:
    """The locations that recent requests named."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # By the number of the id: its hash is computed in C, that of a UUID object is not.
        self._locations: PoolRefs[tuple[int, str], CouponLocation] = PoolRefs()
        self._case_sensitive: PoolRefs[tuple[int, str], CouponLocation] = PoolRefs()

    def find(self, client_id: UUID, code: str, *, case_sensitive: bool = False) -> CouponLocation:
        """Return the location of a client's coupon with this code, or of its coupon that is case-sensitive."""
        name = client_id.int, code
        locations = self._case_sensitive if case_sensitive else self._locations
        location = locations.find(name)
        if location is None:
            location = locations.add(self._engine, name, self._locate(client_id, code, case_sensitive))
        return location

    def _locate(self, client_id: UUID, code: str, case_sensitive: bool) -> CouponLocation:
        folded = fold(code, case_sensitive=case_sensitive)
        text = folded.encode()
        batch_id = case_sensitive_id(client_id, folded) if case_sensitive else coupon_id(client_id, fold_fully(folded))
        use, look = (self._engine.pool_ref(batch_id, client_id, flags=flags) for flags in (USE, LOOK))
        return CouponLocation(use, look, text, coupon_wish(text, b""))

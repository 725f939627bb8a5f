"""Create the coupon that a request or a command describes: with its own code, or with one that is drawn."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final
from uuid import UUID

from issuer.coupons.coupon import Coupon, CouponExistsError, CouponTerms
from issuer.coupons.fields import (
    Fields,
    InvalidCouponError,
    code_format,
    flag_field,
    is_usable_code,
    new_code,
    terms_fields,
    text_field,
)
from issuer.coupons.store import create_coupon
from issuer.generating.alphabets import AlphabetName
from issuer.generating.code_format import CodeFormat
from issuer.generating.code_source import FewCodesError, draw_code
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.stores import Stores

DRAWS: Final = 5
"""Draws before giving up: that many codes in a row that are taken mean that nearly all of the form are."""


async def create_described(
    stores: Stores, client_id: UUID, values: Fields, *, actor: str, act: Act[Coupon] = UNKEPT
) -> Coupon:
    """Create a coupon of a client. Raises InvalidCouponError, RulesError, and what `create_coupon` raises."""
    terms = CouponTerms(**terms_fields(values, None, stores.settings.currency))
    case_sensitive = flag_field(values, "case_sensitive") or False
    create = partial(create_coupon, stores, client_id, case_sensitive=case_sensitive, actor=actor, act=act)
    if (code := new_code(values)) is not None:
        unambiguous = text_field(values, "alphabet") == AlphabetName.UNAMBIGUOUS and not case_sensitive
        return await create(code, terms, unambiguous=unambiguous)
    form = code_format(values)
    unambiguous = form.alphabet == AlphabetName.UNAMBIGUOUS and not case_sensitive
    for _ in range(DRAWS - 1):
        try:
            return await create(await _draw(form), terms, unambiguous=unambiguous)
        except CouponExistsError:
            continue
    return await create(await _draw(form), terms, unambiguous=unambiguous)


async def _draw(form: CodeFormat) -> str:
    try:
        code = await asyncio.to_thread(draw_code, form)
    except FewCodesError as error:
        raise InvalidCouponError(str(error)) from error
    if not is_usable_code(code):
        raise InvalidCouponError("codes of this form may have no letters or digits, or may be the word consume")
    return code

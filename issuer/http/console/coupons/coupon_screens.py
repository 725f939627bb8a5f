"""/console/coupons: list, show, create and change coupons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from issuer.coupons.coupon import Coupon, CouponError
from issuer.coupons.creation import create_described
from issuer.coupons.fields import Fields, terms_fields
from issuer.coupons.store import (
    change_coupon,
    count_used_of_each,
    delete_coupon,
    find_coupon_by_id,
    list_coupons,
)
from issuer.http.auth import Access
from issuer.http.console.batches.batch_form import window_options
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.coupons.coupon_form import PERCENT, fields_of, read_coupon, refuse
from issuer.http.console.layout.client_field import offered_clients, read_client
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.rules_in_words import show_rules
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.console.series.series_screens import CHARTS
from issuer.http.fields import path_id
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.zones import zone_of, zone_options
from issuer.money import show_decimal
from issuer.operators.role import Role
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

PATH: Final = "/console/coupons"
NEW_PATH: Final = PATH + "/new"
ONE: Final = PATH + "/{coupon_id}"
PAGE_SIZE: Final = 25
_LIST: Final = ConsolePage("coupons/list.html")
_SHOW: Final = ConsolePage("coupons/coupon.html", charts=True, scripts=(CHARTS,))
_FORM: Final = ConsolePage("coupons/form.html")
_STATES: Final = {
    "pause": ({"paused": "true"}, "is paused. Uses are refused until you resume it."),
    "resume": ({"paused": "false"}, "is live again."),
}


@dataclass(frozen=True, slots=True)
class CouponView:
    """A coupon as a screen shows it. `used` None: not known, because Redis is unavailable."""

    coupon: Coupon
    used: int | None

    @property
    def state(self) -> tuple[str, str]:
        coupon, used = self.coupon, self.used
        if coupon.expired:
            return ("Deleted" if coupon.ended_at else "Expired"), ""
        if coupon.terms.paused:
            return "Paused", "warn"
        return ("Used up", "bad") if used is not None and used >= coupon.terms.available else ("Live", "good")

    @property
    def worth(self) -> str:
        """What the coupon gives, in words."""
        terms = self.coupon.terms
        worth = [] if terms.discount_variable is None else [f"{show_decimal(terms.discount_variable)} % off"]
        if terms.discount_fixed is not None:
            worth.append(f"{show_decimal(terms.discount_fixed)} {terms.currency} off")
        return " and ".join(worth) or "no discount"

    @property
    def rules(self) -> str:
        return show_rules(self.coupon.terms.rules)


async def get_list(context: RequestContext) -> Response:
    visit = await open_console(context)
    stores, cursor = context.services.stores, context.request.query_params.get("cursor")
    page = await list_coupons(stores.postgres, client_id=visit.client_id, ended=True, limit=PAGE_SIZE, cursor=cursor)
    views = await _views(stores, page.items)
    return _LIST.response(visit, page=page, views=views, is_first=cursor is None, may_change=visit.may(Role.OPERATOR))


async def _views(stores: Stores, coupons: list[Coupon]) -> list[CouponView]:
    try:
        used = await count_used_of_each(stores, coupons)
    except RedisUnavailableError:
        return [CouponView(coupon, None) for coupon in coupons]
    return [CouponView(*pair) for pair in zip(coupons, used, strict=True)]


async def _open(context: RequestContext, role: Role = Role.OPERATOR) -> tuple[ConsoleVisit, Coupon]:
    visit = await open_console(context, role)
    coupon_id = path_id(context.request, "coupon_id")
    return visit, await find_coupon_by_id(context.services.stores.postgres, coupon_id, client_id=visit.client_id)


async def get_coupon(context: RequestContext) -> Response:
    visit, coupon = await _open(context, Role.VIEWER)
    (view,) = await _views(context.services.stores, [coupon])
    may_change = visit.may(Role.OPERATOR) and coupon.ended_at is None
    return _SHOW.response(visit, view=view, coupon=coupon, path=f"{PATH}/{coupon.id}", may_change=may_change)


async def get_new(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR)
    values = {"kind": PERCENT, "window": "0", "zone": zone_of(context.request)}
    return await _form(visit, TypedForm({**values, "currency": context.services.settings.currency}))


async def post_new(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR)
    typed = TypedForm(await visit.form())
    values: Fields = {**read_coupon(typed), "code": typed.text("code")}

    async def show(coupon: Coupon) -> Response:
        return visit.redirect(f"{PATH}/{coupon.id}", f"{coupon.code} is created.")

    act = await visit.act(show)
    client_id = await read_client(visit, typed, needed=True)
    if not typed.errors and client_id is not None:
        try:
            await create_described(context.services.stores, client_id, values, actor=visit.actor, act=act)
            return act.response
        except CouponError as error:
            refuse(typed, str(error))
    return await _form(visit, typed, 422)


async def get_edit(context: RequestContext) -> Response:
    visit, coupon = await _open(context)
    values = fields_of(coupon, zone_of(context.request))
    values["currency"] = values["currency"] or context.services.settings.currency
    return await _form(visit, TypedForm.showing(values), coupon=coupon)


async def post_edit(context: RequestContext) -> Response:
    visit, coupon = await _open(context)
    typed = TypedForm(await visit.form())
    values = read_coupon(typed, coupon)
    if not typed.errors:
        try:
            await _change(visit, coupon, values)
            return visit.redirect(f"{PATH}/{coupon.id}", "Saved. The change is in effect.")
        except CouponError as error:
            refuse(typed, str(error))
    return await _form(visit, typed, 422, coupon)


async def post_state(context: RequestContext) -> Response:
    """Pause, resume or delete a coupon."""
    visit, coupon = await _open(context)
    state = (await visit.form()).get("state", "")
    if state == "delete":
        await delete_coupon(context.services.stores, coupon, actor=visit.actor)
        return visit.redirect(f"{PATH}/{coupon.id}", f"{coupon.code} is deleted.")
    known = _STATES.get(state)
    if known is None:
        return visit.redirect(f"{PATH}/{coupon.id}")
    change, said = known
    await _change(visit, coupon, change)
    return visit.redirect(f"{PATH}/{coupon.id}", f"{coupon.code} {said}")


async def _change(visit: ConsoleVisit, coupon: Coupon, values: Fields) -> None:
    services = visit.context.services
    currency = services.settings.currency
    await change_coupon(services.stores, coupon, lambda terms: terms_fields(values, terms, currency), actor=visit.actor)


async def _form(visit: ConsoleVisit, typed: TypedForm, status: int = 200, coupon: Coupon | None = None) -> Response:
    """Return the form of a new coupon, or of an existing one."""
    return _FORM.response(
        visit,
        status,
        form=typed,
        coupon=coupon,
        path=NEW_PATH if coupon is None else f"{PATH}/{coupon.id}/edit",
        back=PATH if coupon is None else f"{PATH}/{coupon.id}",
        clients=await offered_clients(visit) if coupon is None else [],
        windows=window_options(typed.text("window")),
        zones=zone_options(typed.text("zone")),
    )


OPERATIONS: Final = (
    Operation("GET", PATH, get_list, Access.PUBLIC, page=True),
    Operation("GET", NEW_PATH, get_new, Access.PUBLIC, page=True),
    Operation("POST", NEW_PATH, post_new, Access.PUBLIC, page=True),
    Operation("GET", ONE, get_coupon, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/edit", get_edit, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/edit", post_edit, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/state", post_state, Access.PUBLIC, page=True),
)

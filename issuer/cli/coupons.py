"""`issuer coupons` and `issuer consumptions`: create, list, show, change, delete, use and export coupons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from issuer.cli.export import add_export
from issuer.cli.options import AS_JSON, client_option, default_client_option
from issuer.cli.output import CommandError, InputError, print_fields, print_json, print_list, run
from issuer.cli.tables import Cell, shown_time
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from issuer.coupons.coupon import Coupon
    from issuer.storage.stores import Stores

T = TypeVar("T")

coupons = typer.Typer(help="Create, list, show, change, delete, use and export coupons.", no_args_is_help=True)
consumptions = typer.Typer(help="Reverse and export uses of coupons.", no_args_is_help=True)

CODE = typer.Argument(..., metavar="CODE", help="Code of the coupon.")
CLIENT = typer.Option(None, help="Client of the coupon, if several have the code.")
COUNT = typer.Option(None, help="How many times it can be used; 0 stops it.")
EXPIRY = typer.Option(None, help="First instant at which it is not valid: a day, or ISO 8601; '': never.")
PRODUCT = typer.Option(None, help="Product that it is for; '': any.")
PROMO = typer.Option(None, help="Kind of promotion, a text of your own.")
FIXED = typer.Option(None, help="Discount as an amount, such as 5.00; '': none.")
CURRENCY = typer.Option(None, help="Currency of the amount (ISO 4217); default: ISSUER_CURRENCY.")
PERCENT = typer.Option(None, help="Discount in percent, such as 12.5; '': none.")
RULES = typer.Option(None, help='Rules as JSON, such as {"maxpercustomer":1}.')
PAUSED = typer.Option(None, "--paused/--not-paused", help="Whether it cannot be used for now.")


def register(app: typer.Typer) -> None:
    app.add_typer(coupons, name="coupons")
    app.add_typer(consumptions, name="consumptions")


@coupons.command()
def create(
    client: str | None = typer.Option(None, help="Client that owns it; default: ISSUER_DEFAULT_CLIENT."),
    code: str | None = typer.Option(None, help="The code; without it one is drawn."),
    code_length: str | None = typer.Option(None, help="Drawn: random characters."),
    prefix: str | None = typer.Option(None, help="Drawn: text before the random characters."),
    suffix: str | None = typer.Option(None, help="Drawn: text after the random characters."),
    pattern: str | None = typer.Option(None, help="Drawn: each # is a random character, as in SAVE-####-####."),
    alphabet: str | None = typer.Option(
        None, help="Characters, or numeric, alphabetic, alphanumeric, unambiguous; default: unambiguous."
    ),
    check: bool | None = typer.Option(None, "--check", help="Drawn: the last character is a check character."),
    case_sensitive: bool | None = typer.Option(None, "--case-sensitive", help="Codes that differ in case are two."),
    availability_count: str | None = COUNT,
    expiry_date: str | None = EXPIRY,
    product_id: str | None = PRODUCT,
    promo_type: str | None = PROMO,
    discount_fixed: str | None = FIXED,
    currency: str | None = CURRENCY,
    discount_variable: str | None = PERCENT,
    rules: str | None = RULES,
    paused: bool | None = PAUSED,
    as_json: bool = AS_JSON,
) -> None:
    """Create a coupon, with a code of your own or one that is drawn."""
    values = _given(
        code=code, code_length=code_length, prefix=prefix, suffix=suffix, pattern=pattern, alphabet=alphabet,
        check=check, case_sensitive=case_sensitive, availability_count=availability_count, expiry_date=expiry_date,
        product_id=product_id, promo_type=promo_type, discount_fixed=discount_fixed, currency=currency,
        discount_variable=discount_variable, rules=rules, paused=paused,
    )  # fmt: skip

    async def work(stores: Stores) -> Coupon:
        from issuer.access.audit import cli_actor
        from issuer.coupons.creation import create_described

        client_id = await client_option(stores.postgres, client) or await default_client_option(stores)
        if client_id is None:
            raise InputError("give --client, or set ISSUER_DEFAULT_CLIENT")
        return await create_described(stores, client_id, values, actor=cli_actor())

    _show_one(work, as_json)


@coupons.command("list")
def list_command(
    client: str | None = typer.Option(None, help="Only coupons of this client."),
    everything: bool = typer.Option(False, "--all", help="Include expired and deleted coupons."),
    as_json: bool = AS_JSON,
) -> None:
    """List the coupons that can be used, oldest first."""
    from issuer.coupons.store import count_used_of_each, list_coupons, show_with_uses

    def row(pair: tuple[Coupon, int]) -> tuple[Cell, ...]:
        coupon, used = pair
        owner = coupon.client_name or str(coupon.client_id)
        expiry, product = shown_time(coupon.terms.expires_at), coupon.terms.product_id or "-"
        return coupon.code, _state(coupon, used), coupon.terms.available, used, expiry, product, owner

    async def work(stores: Stores) -> None:
        client_id = await client_option(stores.postgres, client)

        async def page(cursor: str | None) -> Page[Coupon]:
            return await list_coupons(
                stores.postgres, client_id=client_id, ended=everything, limit=MAX_LIMIT, cursor=cursor
            )

        async def with_uses() -> AsyncIterator[list[tuple[Coupon, int]]]:
            async for found in all_items(page):
                yield list(zip(found, await count_used_of_each(stores, found), strict=True))

        await print_list(
            with_uses(),
            as_json=as_json,
            to_json=lambda pair: show_with_uses(*pair),
            headers=("code", "state", "available", "used", "expires", "product", "client"),
            row=row,
            empty="no coupons: see `issuer coupons create --help`",
        )

    run(work)


@coupons.command()
def show(code: str = CODE, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Show a coupon, also one that was deleted."""
    _show_one(lambda stores: _find(stores, code, client), as_json)


@coupons.command()
def update(
    code: str = CODE,
    client: str | None = CLIENT,
    availability_count: str | None = COUNT,
    expiry_date: str | None = EXPIRY,
    product_id: str | None = PRODUCT,
    promo_type: str | None = PROMO,
    discount_fixed: str | None = FIXED,
    currency: str | None = CURRENCY,
    discount_variable: str | None = PERCENT,
    rules: str | None = RULES,
    paused: bool | None = PAUSED,
    as_json: bool = AS_JSON,
) -> None:
    """Change a coupon. What is not given stays; the change counts from the next use on."""
    values = _given(
        availability_count=availability_count, expiry_date=expiry_date, product_id=product_id, promo_type=promo_type,
        discount_fixed=discount_fixed, currency=currency, discount_variable=discount_variable, rules=rules,
        paused=paused,
    )  # fmt: skip

    async def work(stores: Stores) -> Coupon:
        from issuer.access.audit import cli_actor
        from issuer.coupons.fields import terms_fields
        from issuer.coupons.store import change_coupon

        coupon, default = await _find(stores, code, client), stores.settings.currency
        return await change_coupon(
            stores, coupon, lambda terms: terms_fields(values, terms, default), actor=cli_actor()
        )

    _show_one(work, as_json)


@coupons.command()
def delete(code: str = CODE, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Delete a coupon. This is final: it is never used again, and its code stays taken."""

    async def work(stores: Stores) -> Coupon:
        from issuer.access.audit import cli_actor
        from issuer.coupons.store import delete_coupon

        return await delete_coupon(stores, await _find(stores, code, client), actor=cli_actor())

    _show_one(work, as_json)


@coupons.command()
def consume(
    code: str = CODE,
    client: str | None = CLIENT,
    customer: str | None = typer.Option(None, help="Id of the customer: a UUID or a text of your own."),
    product: str = typer.Option("", help="Product that is bought."),
    order: str = typer.Option("", help="Order, for the ledger."),
    idempotency_key: str | None = typer.Option(None, help="The same key of the same customer: the same use."),
    as_json: bool = AS_JSON,
) -> None:
    """Use a coupon once."""

    async def work(stores: Stores) -> dict[str, Any]:
        from issuer.coupons.using import use_coupon
        from issuer.ids import InvalidIdError

        try:
            who = None if customer is None else stores.identity(customer)
        except InvalidIdError as error:
            raise InputError(f"--customer: {error}") from error
        coupon = await _find(stores, code, client)
        return await use_coupon(
            stores, coupon, customer=who, product_id=product, order_id=order, idempotency_key=idempotency_key
        )

    used = run(_refusals_reported(work))
    if as_json:
        print_json(used)
    else:
        print_fields(*((name, None if value is None else str(value)) for name, value in used.items()))


@consumptions.command()
def reverse(
    consumption: str = typer.Argument(..., metavar="CONSUMPTION_ID", help="What the use returned."),
    as_json: bool = AS_JSON,
) -> None:
    """Reverse a use, once: the coupon gets one more use."""

    async def work(stores: Stores) -> dict[str, Any]:
        from issuer.access.audit import cli_actor
        from issuer.coupons.reversal import reverse_use

        return (await reverse_use(stores, consumption, actor=cli_actor())).to_json()

    done = run(_refusals_reported(work))
    if as_json:
        print_json(done)
    else:
        typer.echo(f"reversed {consumption} of the coupon {done['code']}")


add_export(coupons, "coupons")
add_export(consumptions, "consumptions")


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


async def _find(stores: Stores, code: str, client: str | None) -> Coupon:
    from issuer.coupons.fields import code_field
    from issuer.coupons.store import find_coupon

    client_id = await client_option(stores.postgres, client)
    return await find_coupon(stores.postgres, code_field({"code": code}), client_id=client_id)


def _refusals_reported(work: Callable[[Stores], Awaitable[T]]) -> Callable[[Stores], Awaitable[T]]:
    """Return the work with refusals turned into errors of a command."""

    async def checked(stores: Stores) -> T:
        from issuer.batches.rules import RulesError
        from issuer.coupons.coupon import CouponError, ManyClientsError
        from issuer.coupons.using import UseRefusedError
        from issuer.ledger.erasure import BacklogNotEmptyError

        try:
            return await work(stores)
        except ManyClientsError as error:
            raise InputError("several clients have a coupon with this code: give --client") from error
        except (UseRefusedError, BacklogNotEmptyError) as error:
            raise CommandError(str(error)) from error
        except (CouponError, RulesError) as error:
            raise InputError(str(error)) from error

    return checked


def _show_one(work: Callable[[Stores], Awaitable[Coupon]], as_json: bool) -> None:
    from issuer.coupons.store import count_used, show_with_uses

    async def with_uses(stores: Stores) -> tuple[Coupon, int]:
        coupon = await work(stores)
        return coupon, await count_used(stores, coupon)

    coupon, used = run(_refusals_reported(with_uses))
    if as_json:
        print_json(show_with_uses(coupon, used))
        return
    terms = coupon.terms
    discount = None if terms.discount_fixed is None else f"{terms.discount_fixed} {terms.currency}"
    print_fields(
        ("coupon", coupon.code),
        ("state", _state(coupon, used)),
        ("client", coupon.client_name or str(coupon.client_id)),
        ("available", f"{terms.available:,}"),
        ("used", f"{used:,}"),
        ("expires", shown_time(terms.expires_at)),
        ("product", terms.product_id),
        ("discount", discount if terms.discount_variable is None else f"{terms.discount_variable:f} %"),
    )


def _state(coupon: Coupon, used: int) -> str:
    if coupon.ended_at is not None:
        return "deleted"
    if coupon.expired:
        return "expired"
    if coupon.terms.paused:
        return "paused"
    return "valid" if used < coupon.terms.available else "used up"

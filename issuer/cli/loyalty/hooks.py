"""`issuer loyalty hooks`: endpoints to which shops send orders, and the deliveries that have arrived."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from issuer.cli.loyalty.chosen import CLIENT, PROGRAM, chosen_program, run_checked
from issuer.cli.options import AS_JSON
from issuer.cli.output import InputError, print_json, print_list
from issuer.cli.tables import shown_time
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.access.secrets import SecretKeys
    from issuer.loyalty.hooks.endpoint import HookEndpoint
    from issuer.loyalty.hooks.endpoint_store import HookWithSecret
    from issuer.loyalty.hooks.inbox import InboxRow
    from issuer.storage.stores import Stores

T = TypeVar("T")

commands = typer.Typer(help="Endpoints of shops, and the orders that have arrived.", no_args_is_help=True)

HOOK: Final[Any] = typer.Argument(..., metavar="HOOK", help="Id of the hook.")
SECRET: Final[Any] = typer.Option(
    False, "--secret-from-stdin", help="Read the shop's secret from standard input; without it one is drawn."
)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="hooks")


@commands.command()
def create(
    program: str = PROGRAM,
    kind: str = typer.Argument(..., metavar="KIND", help="shopify, woocommerce, square or standard."),
    secret_from_stdin: bool = SECRET,
    source: str | None = typer.Option(None, help="Source of the orders, if the program has several of one kind."),
    notification_url: str | None = typer.Option(None, help="Of Square: your address, or the whole URL there."),
    keeps_unknown: bool = typer.Option(False, help="Keep orders of people who are no members until they join."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Create a hook and print its secret, which is shown only now."""
    secret = _read_secret(secret_from_stdin)

    async def work(stores: Stores) -> HookWithSecret:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.hooks.endpoint import parse_kind
        from issuer.loyalty.hooks.endpoint_store import create_endpoint

        return await create_endpoint(
            stores.postgres, _keys(stores), await chosen_program(stores, program, client), parse_kind(kind),
            secret=secret, source=source, notification_url=notification_url, keeps_unknown=keeps_unknown,
            actor=cli_actor(),
        )  # fmt: skip

    _show_secret(_run(work), as_json)


@commands.command()
def rotate(hook: str = HOOK, secret_from_stdin: bool = SECRET, as_json: bool = AS_JSON) -> None:
    """Give a hook a new secret. The one before stays valid for 24 hours."""
    secret = _read_secret(secret_from_stdin)

    async def work(stores: Stores) -> HookWithSecret:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.hooks.endpoint_store import rotate_secret

        endpoint = await _endpoint(stores, hook)
        return await rotate_secret(stores.postgres, _keys(stores), endpoint, secret=secret, actor=cli_actor())

    _show_secret(_run(work), as_json)


@commands.command("list")
def list_command(program: str = PROGRAM, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """List the hooks of a program, oldest first."""

    async def work(stores: Stores) -> None:
        from issuer.loyalty.hooks.endpoint_store import list_endpoints

        chosen = await chosen_program(stores, program, client)

        async def page(cursor: str | None) -> Page[HookEndpoint]:
            return await list_endpoints(stores.postgres, chosen.id, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda one: one.to_json(),
            headers=("kind", "source", "path", "state"),
            row=lambda one: (str(one.kind), one.source, one.path, "revoked" if one.revoked_at else "open"),
            empty="no hooks: see `issuer loyalty hooks create --help`",
        )

    _run(work)


@commands.command()
def revoke(hook: str = HOOK, as_json: bool = AS_JSON) -> None:
    """Revoke a hook, which is final. What has arrived is processed."""

    async def work(stores: Stores) -> HookEndpoint:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.hooks.endpoint_store import revoke_endpoint

        return await revoke_endpoint(stores.postgres, await _endpoint(stores, hook), actor=cli_actor())

    revoked = _run(work)
    if as_json:
        print_json(revoked.to_json())
    else:
        typer.echo(f"hook {revoked.id} is revoked")


@commands.command()
def inbox(
    program: str = PROGRAM,
    state: str | None = typer.Option(None, help="Only deliveries in this state, such as refused or asks."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """List the deliveries that have arrived, newest first, and what has become of them."""

    async def work(stores: Stores) -> None:
        from issuer.loyalty.hooks.inbox import InboxState, list_inbox

        if state is not None and state not in [*InboxState]:
            raise InputError(f"--state must be one of {', '.join(InboxState)}")
        chosen, wanted = await chosen_program(stores, program, client), None if state is None else InboxState(state)

        async def page(cursor: str | None) -> Page[InboxRow]:
            return await list_inbox(
                stores.postgres, program_id=chosen.id, state=wanted, limit=MAX_LIMIT, cursor=cursor
            )  # fmt: skip

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda one: one.to_json(),
            headers=("id", "received", "topic", "order", "state", "note"),
            row=lambda one: (
                one.id, shown_time(one.received_at), one.topic, one.order_id or "-", str(one.state),
                one.note if one.error is None else f"failed {one.failures} times: {one.error}",
            ),
            empty="no deliveries",
        )  # fmt: skip

    _run(work)


@commands.command()
def retry(delivery: int = typer.Argument(..., help="Id of a refused delivery."), as_json: bool = AS_JSON) -> None:
    """Have a refused delivery processed again, for example after the terms were changed."""
    from issuer.loyalty.hooks.inbox import retry_delivery

    async def work(stores: Stores) -> None:
        if not await retry_delivery(stores.postgres, delivery):
            raise InputError(f"delivery {delivery} is not refused, or its content is not kept")

    _run(work)
    if as_json:
        print_json({"id": delivery, "retried": True})
    else:
        typer.echo(f"delivery {delivery} is processed again")


@commands.command()
def settle(
    delivery: int = typer.Argument(..., help="Id of a delivery in the state asks."), as_json: bool = AS_JSON
) -> None:
    """Note that you have answered what a delivery asks for, such as a customer's data."""
    from issuer.loyalty.hooks.inbox import settle_request

    async def work(stores: Stores) -> None:
        if not await settle_request(stores.postgres, delivery):
            raise InputError(f"delivery {delivery} asks for nothing")

    _run(work)
    if as_json:
        print_json({"id": delivery, "settled": True})
    else:
        typer.echo(f"delivery {delivery} is settled")


def _read_secret(from_stdin: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if from_stdin else None


def _keys(stores: Stores) -> SecretKeys:
    from issuer.access.secrets import SecretKeys

    return SecretKeys.from_settings(stores.settings)


async def _endpoint(stores: Stores, given: str) -> HookEndpoint:
    from issuer.ids import parse_uuid
    from issuer.loyalty.hooks.endpoint import HookNotFoundError
    from issuer.loyalty.hooks.endpoint_store import find_endpoint

    hook_id = parse_uuid(given)
    if hook_id is None:
        raise HookNotFoundError
    return await find_endpoint(stores.postgres, hook_id)


def _run(work: Callable[[Stores], Awaitable[T]]) -> T:
    """Run the work; what an operator can correct is an InputError."""

    async def checked(stores: Stores) -> T:
        from issuer.access.secrets import SecretKeyError
        from issuer.loyalty.hooks.endpoint import HookExistsError, HookNotFoundError, InvalidHookError

        try:
            return await work(stores)
        except (SecretKeyError, HookExistsError, HookNotFoundError, InvalidHookError) as error:
            raise InputError(str(error)) from error

    return run_checked(checked)


def _show_secret(made: HookWithSecret, as_json: bool) -> None:
    if as_json:
        print_json({**made.endpoint.to_json(), "secret": made.secret})
        return
    typer.echo(f"hook {made.endpoint.id}")
    typer.echo(f"URL {made.endpoint.notification_url or 'https://YOUR-ADDRESS' + made.endpoint.path}")
    typer.echo(f"secret {made.secret}")

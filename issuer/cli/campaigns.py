"""`issuer campaigns`: create, list, show, change, pause, extend and end campaigns, and list their codes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from issuer.cli.chosen_batch import ambiguous
from issuer.cli.options import AS_JSON, client_option, default_client_option, instant_option
from issuer.cli.output import CommandError, InputError, print_json, print_list, run
from issuer.cli.tables import Cell, shown_time
from issuer.ids import parse_uuid
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.campaigns.campaign import Campaign
    from issuer.campaigns.counters import Counters
    from issuer.storage.stores import Stores

T = TypeVar("T")

commands = typer.Typer(help="Create, list, show, change and end campaigns, and list their codes.", no_args_is_help=True)

CAMPAIGN = typer.Argument(..., metavar="CAMPAIGN", help="Name or id of the campaign.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="campaigns")


@commands.command()
def create(
    name: str = typer.Option(..., help="Name of the campaign; the page of a public one shows it."),
    total: int = typer.Option(..., help="Number of codes."),
    starts_at: str = typer.Option(..., help="No code is issued before this time; ISO 8601 with an offset."),
    public: bool = typer.Option(False, "--public", help="Issue codes without an API key."),
    client: str | None = typer.Option(
        None, help="Client that owns the codes; default: ISSUER_DEFAULT_CLIENT, or a client for all campaigns."
    ),
    length: int | None = typer.Option(None, help="Random characters of a code; default: 10."),
    alphabet: str | None = typer.Option(
        None,
        help="Characters, or numeric, alphabetic, alphanumeric, unambiguous; default: unambiguous.",
    ),
    prefix: str | None = typer.Option(None, help="Text before the random characters."),
    as_json: bool = AS_JSON,
) -> None:
    """Create a campaign. Returns when it can issue codes: all are generated, and Redis is filled."""
    from issuer.access.audit import cli_actor
    from issuer.campaigns.campaign import DEFAULT_CLIENT, parse_campaign_format
    from issuer.campaigns.store import NewCampaign, create_campaign

    async def work(stores: Stores) -> Campaign:
        options = {"length": length, "alphabet": alphabet, "prefix": prefix}
        start = instant_option(starts_at, "--starts-at")
        assert start is not None
        new = NewCampaign(
            name=name,
            total=total,
            starts_at=start,
            code_format=parse_campaign_format({field: value for field, value in options.items() if value is not None}),
            public=public,
            client_id=await client_option(stores.postgres, client)
            or await default_client_option(stores)
            or DEFAULT_CLIENT,
        )
        return await create_campaign(stores, new, actor=cli_actor())

    _show_one(work, as_json)


@commands.command("list")
def list_command(
    everything: bool = typer.Option(False, "--all", help="Include ended campaigns."), as_json: bool = AS_JSON
) -> None:
    """List the campaigns that have not ended, newest first."""
    from issuer.campaigns.campaign import CampaignState
    from issuer.campaigns.counters import read_available_counters, show_campaign
    from issuer.campaigns.store import list_campaigns

    def row(pair: tuple[Campaign, Counters]) -> tuple[Cell, ...]:
        campaign, counters = pair
        start = shown_time(campaign.batch.starts_at)
        client = campaign.client_name or str(campaign.client_id)
        figures = (counters.issued, counters.total)
        return str(campaign.id), counters.state.value, start, *figures, client, campaign.batch.name

    async def work(stores: Stores) -> None:
        async def page(cursor: str | None) -> Page[Campaign]:
            return await list_campaigns(stores.postgres, limit=MAX_LIMIT, cursor=cursor)

        async def with_counters() -> AsyncIterator[list[tuple[Campaign, Counters]]]:
            async for campaigns in all_items(page):
                pairs = zip(campaigns, await read_available_counters(stores, campaigns), strict=True)
                yield [pair for pair in pairs if everything or pair[1].state is not CampaignState.ENDED]

        await print_list(
            with_counters(),
            as_json=as_json,
            to_json=lambda pair: show_campaign(*pair),
            headers=("id", "state", "starts", "issued", "total", "client", "name"),
            row=row,
            empty="no campaigns: see `issuer campaigns create --help`",
        )

    run(work)


@commands.command()
def show(campaign: str = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Show a campaign and its counters."""
    _show_one(lambda stores: _find(stores, campaign), as_json)


@commands.command()
def codes(campaign: str = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """List the issued codes of a campaign in the order of issue."""
    from issuer.campaigns.issued import IssuedCode, read_issued_page

    async def work(stores: Stores) -> None:
        found = await _find(stores, campaign)

        async def page(cursor: str | None) -> Page[IssuedCode]:
            return await read_issued_page(stores, found, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda code: code.to_json(),
            headers=("seq", "code", "issued"),
            row=lambda code: (str(code.seq), code.code, shown_time(code.issued_at)),
            empty="no codes were issued yet",
        )

    run(_refusals_reported(work))


@commands.command()
def change(
    campaign: str = CAMPAIGN,
    name: str | None = typer.Option(None, help="New name."),
    starts_at: str | None = typer.Option(None, help="New start; ISO 8601 with an offset."),
    public: bool | None = typer.Option(None, "--public/--not-public", help="Issue codes without an API key."),
    as_json: bool = AS_JSON,
) -> None:
    """Change the name or the start of a campaign, or whether it is public. Returns when the change counts."""

    def values() -> dict[str, Any]:
        return {"name": name, "starts_at": instant_option(starts_at, "--starts-at"), "public": public}

    _change(campaign, values, as_json)


@commands.command()
def extend(
    campaign: str = CAMPAIGN,
    total: int = typer.Option(..., help="New number of codes, with those that were issued."),
    as_json: bool = AS_JSON,
) -> None:
    """Add codes to a campaign. Returns when they are generated; if it is interrupted, the worker generates them."""
    _change(campaign, lambda: {"total": total}, as_json)


@commands.command()
def pause(campaign: str = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Issue no codes until the campaign is resumed."""
    _change(campaign, lambda: {"paused": True}, as_json)


@commands.command()
def resume(campaign: str = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Issue codes again after a pause."""
    _change(campaign, lambda: {"paused": False}, as_json)


@commands.command()
def end(campaign: str = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """End a campaign. This is final: its remaining codes are never issued."""
    _change(campaign, lambda: {"ended": True}, as_json)


def _change(campaign: str, values: Callable[[], dict[str, Any]], as_json: bool) -> None:
    from issuer.access.audit import cli_actor
    from issuer.campaigns.store import CampaignChanges, change_campaign

    async def work(stores: Stores) -> Campaign:
        changes = CampaignChanges(**values())
        return await change_campaign(stores, (await _find(stores, campaign)).id, changes, actor=cli_actor())

    _show_one(work, as_json)


async def _find(stores: Stores, campaign: str) -> Campaign:
    from issuer.campaigns.store import find_campaign, find_named_campaign

    campaign_id = parse_uuid(campaign)
    if campaign_id is not None:
        return await find_campaign(stores.postgres, campaign_id)
    return await find_named_campaign(stores.postgres, campaign)


def _refusals_reported(work: Callable[[Stores], Awaitable[T]]) -> Callable[[Stores], Awaitable[T]]:
    """Return the work with refusals that the operator can correct turned into InputError."""
    from issuer.batches.named import AmbiguousNameError
    from issuer.batches.store import BatchEndedError, InvalidBatchError
    from issuer.campaigns.campaign import CampaignNotFoundError, InvalidCampaignError
    from issuer.clients.quotas import QuotaExceededError
    from issuer.pools.memory import RedisMemoryError
    from issuer.pools.pool import PoolError

    async def checked(stores: Stores) -> T:
        try:
            return await work(stores)
        except AmbiguousNameError as error:
            raise ambiguous(error, "the id") from error
        except (CampaignNotFoundError, InvalidCampaignError, InvalidBatchError, BatchEndedError) as error:
            raise InputError(str(error)) from error
        except (RedisMemoryError, PoolError, QuotaExceededError) as error:
            raise CommandError(str(error)) from error

    return checked


def _show_one(work: Callable[[Stores], Awaitable[Campaign]], as_json: bool) -> None:
    """Run the work and print the campaign."""
    from issuer.campaigns.counters import read_available_counters, show_campaign

    async def with_counters(stores: Stores) -> tuple[Campaign, Counters]:
        campaign = await work(stores)
        (counters,) = await read_available_counters(stores, [campaign])
        return campaign, counters

    campaign, counters = run(_refusals_reported(with_counters))
    fields = show_campaign(campaign, counters)
    if as_json:
        print_json(fields)
        return
    typer.echo(f"campaign {campaign.id}: {visible(campaign.batch.name)} ({counters.state})")
    for name in ("starts_at", "total", "issued", "remaining", "public"):
        typer.echo(f"{name} {'?' if fields[name] is None else fields[name]}")
    if campaign.public:
        typer.echo(f"page /c/{campaign.id}")

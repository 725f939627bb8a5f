"""`issuer campaigns`: create, list, show and end campaigns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from issuer.cli.options import AS_JSON, client_option, default_client_option, instant_option
from issuer.cli.output import CommandError, InputError, print_json, print_list, run
from issuer.cli.tables import Cell, shown_time
from issuer.names import visible
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.campaigns.campaign import Campaign
    from issuer.campaigns.counters import Counters
    from issuer.storage.stores import Stores


commands = typer.Typer(help="Create, list, show and end campaigns.", no_args_is_help=True)

CAMPAIGN = typer.Argument(..., metavar="CAMPAIGN", help="Id of the campaign.")


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
        return str(campaign.id), counters.state.value, start, counters.issued, counters.total, campaign.batch.name

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
            headers=("id", "state", "starts", "issued", "total", "name"),
            row=row,
            empty="no campaigns: see `issuer campaigns create --help`",
        )

    run(work)


@commands.command()
def show(campaign: UUID = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Show a campaign and its counters."""
    from issuer.campaigns.store import find_campaign

    _show_one(lambda stores: find_campaign(stores.postgres, campaign), as_json)


@commands.command()
def end(campaign: UUID = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """End a campaign. This is final: its remaining codes are never issued."""
    from issuer.access.audit import cli_actor
    from issuer.campaigns.store import CampaignChanges, change_campaign

    changes = CampaignChanges(ended=True)
    _show_one(lambda stores: change_campaign(stores, campaign, changes, actor=cli_actor()), as_json)


def _show_one(work: Callable[[Stores], Awaitable[Campaign]], as_json: bool) -> None:
    """Run the work and print the campaign; a refusal that the operator can correct is an InputError."""
    from issuer.batches.store import BatchEndedError, InvalidBatchError
    from issuer.campaigns.campaign import CampaignNotFoundError, InvalidCampaignError
    from issuer.campaigns.counters import read_available_counters, show_campaign
    from issuer.pools.memory import RedisMemoryError
    from issuer.pools.pool import PoolError

    async def checked(stores: Stores) -> tuple[Campaign, Counters]:
        try:
            campaign = await work(stores)
        except (CampaignNotFoundError, InvalidCampaignError, InvalidBatchError, BatchEndedError) as error:
            raise InputError(str(error)) from error
        except (RedisMemoryError, PoolError) as error:
            raise CommandError(str(error)) from error
        (counters,) = await read_available_counters(stores, [campaign])
        return campaign, counters

    campaign, counters = run(checked)
    fields = show_campaign(campaign, counters)
    if as_json:
        print_json(fields)
        return
    typer.echo(f"campaign {campaign.id}: {visible(campaign.batch.name)} ({counters.state})")
    for name in ("starts_at", "total", "issued", "remaining", "public"):
        typer.echo(f"{name} {'?' if fields[name] is None else fields[name]}")
    if campaign.public:
        typer.echo(f"page /c/{campaign.id}")

"""`issuer campaigns`: create, list, show and end campaigns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from issuer.cli.output import CommandError, InputError, print_json, run
from issuer.instants import InvalidInstantError, parse_instant

if TYPE_CHECKING:
    from datetime import datetime

    from issuer.campaigns.campaign import Campaign
    from issuer.campaigns.counters import Counters
    from issuer.storage.stores import Stores


commands = typer.Typer(help="Create, list, show and end campaigns.", no_args_is_help=True)

AS_JSON = typer.Option(False, "--json", help="Print JSON.")
CAMPAIGN = typer.Argument(..., metavar="CAMPAIGN", help="Id of the campaign.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="campaigns")


@commands.command()
def create(
    name: str = typer.Option(..., help="Name of the campaign; the page of a public one shows it."),
    total: int = typer.Option(..., help="Codes in all."),
    starts_at: str = typer.Option(..., help="Nothing is handed out before; ISO 8601 with an offset."),
    public: bool = typer.Option(False, "--public", help="Anybody may ask for a code, without a key."),
    client: UUID | None = typer.Option(None, help="Whose codes they are; nobody's in particular if not given."),
    length: int | None = typer.Option(None, help="Drawn characters of a code; 10 if not given."),
    alphabet: str | None = typer.Option(
        None,
        help="Characters, or numeric, alphabetic, alphanumeric, unambiguous; Korean syllables and digits if not given.",
    ),
    prefix: str | None = typer.Option(None, help="What every code begins with."),
    as_json: bool = AS_JSON,
) -> None:
    """Create a campaign. Returns when it can issue: its codes are made, and in Redis as many as belong there."""
    from issuer.access.audit import cli_actor
    from issuer.campaigns.campaign import DEFAULT_CLIENT, parse_campaign_format
    from issuer.campaigns.store import NewCampaign, create_campaign

    async def work(stores: Stores) -> Campaign:
        given = {"length": length, "alphabet": alphabet, "prefix": prefix}
        new = NewCampaign(
            name=name,
            total=total,
            starts_at=_instant(starts_at),
            code_format=parse_campaign_format({field: value for field, value in given.items() if value is not None}),
            public=public,
            client_id=client or DEFAULT_CLIENT,
        )
        return await create_campaign(stores, new, actor=cli_actor())

    _show_one(work, as_json)


@commands.command("list")
def list_command(
    everything: bool = typer.Option(False, "--all", help="Ended campaigns too."), as_json: bool = AS_JSON
) -> None:
    """List the campaigns that have not ended, newest first."""
    from issuer.campaigns.campaign import CampaignState
    from issuer.campaigns.counters import read_available_counters, show_campaign
    from issuer.campaigns.store import list_campaigns

    async def work(stores: Stores) -> list[tuple[Campaign, Counters]]:
        found: list[tuple[Campaign, Counters]] = []
        cursor = None
        while True:
            page = await list_campaigns(stores.postgres, limit=1000, cursor=cursor)
            found += zip(page.items, await read_available_counters(stores, page.items), strict=True)
            cursor = page.next_cursor
            if cursor is None:
                return found

    shown = [one for one in run(work) if everything or one[1].state is not CampaignState.ENDED]
    if as_json:
        print_json([show_campaign(*one) for one in shown])
        return
    for campaign, counters in shown:
        issued = "?" if counters.issued is None else f"{counters.issued:,}"
        typer.echo(f"{campaign.id}  {counters.state:<9}  {issued} of {counters.total:,}  {campaign.batch.name}")


@commands.command()
def show(campaign: UUID = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Show a campaign and how it stands."""
    from issuer.campaigns.store import find_campaign

    _show_one(lambda stores: find_campaign(stores.postgres, campaign), as_json)


@commands.command()
def end(campaign: UUID = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """End a campaign. This is final: its codes that are left are never handed out."""
    from issuer.access.audit import cli_actor
    from issuer.campaigns.store import CampaignChanges, change_campaign

    changes = CampaignChanges(ended=True)
    _show_one(lambda stores: change_campaign(stores, campaign, changes, actor=cli_actor()), as_json)


def _show_one(work: Callable[[Stores], Awaitable[Campaign]], as_json: bool) -> None:
    """Does the work and prints the campaign; what is the operator's to mend becomes an InputError."""
    from issuer.batches.store import BatchEndedError, InvalidBatchError
    from issuer.campaigns.campaign import CampaignNotFoundError, InvalidCampaignError
    from issuer.campaigns.counters import read_available_counters, show_campaign
    from issuer.pools.memory import RedisMemoryError
    from issuer.pools.pool import PoolError

    async def checked(stores: Stores) -> tuple[Campaign, Counters]:
        try:
            found = await work(stores)
        except (CampaignNotFoundError, InvalidCampaignError, InvalidBatchError, BatchEndedError) as error:
            raise InputError(str(error)) from error
        except (RedisMemoryError, PoolError) as error:
            raise CommandError(str(error)) from error
        (counters,) = await read_available_counters(stores, [found])
        return found, counters

    campaign, counters = run(checked)
    shown = show_campaign(campaign, counters)
    if as_json:
        print_json(shown)
        return
    typer.echo(f"campaign {campaign.id}: {campaign.batch.name} ({counters.state})")
    for field in ("starts_at", "total", "issued", "remaining", "public"):
        typer.echo(f"{field} {'?' if shown[field] is None else shown[field]}")
    if campaign.public:
        typer.echo(f"page /c/{campaign.id}")


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except InvalidInstantError as error:
        raise InputError(f"--starts-at: {error}") from error

"""`issuer loyalty rewards`: create, list, show and change what members take for points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.chosen_batch import named_batch
from issuer.cli.loyalty.chosen import CLIENT, PROGRAM, chosen_program, run_checked
from issuer.cli.options import AS_JSON, instant_option, uuid_option
from issuer.cli.output import InputError, print_fields, print_json, print_list, run
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from uuid import UUID

    from issuer.loyalty.program import Program
    from issuer.loyalty.reward import Reward
    from issuer.storage.stores import Stores

commands = typer.Typer(help="Create, list, show and change rewards: codes of a batch for points.", no_args_is_help=True)

REWARD = typer.Argument(..., metavar="REWARD", help="Id of the reward.")
STARTS_AT = typer.Option(None, help="From when it can be taken: ISO 8601 with an offset.")
ENDS_AT = typer.Option(None, help="Until when it can be taken, exclusive, in the same format.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="rewards")


@commands.command()
def create(
    program: str = PROGRAM,
    name: str = typer.Option(..., help="Name of the reward."),
    cost: str = typer.Option(..., help="Points that it costs, or an amount in the currency of the program."),
    batch: str = typer.Option(..., help="Name or id of the batch whose codes it issues."),
    starts_at: str | None = STARTS_AT,
    ends_at: str | None = ENDS_AT,
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Create a reward. What a member may take in which time is the rules of the batch."""
    start, end = instant_option(starts_at, "--starts-at"), instant_option(ends_at, "--ends-at")

    async def work(stores: Stores) -> tuple[Program, Reward]:
        from issuer.access.audit import cli_actor
        from issuer.loyalty.amounts import parse_points
        from issuer.loyalty.reward import NewReward
        from issuer.loyalty.rewards import create_reward

        found = await chosen_program(stores, program, client)
        chosen = await named_batch(stores.postgres, batch, client_id=found.client_id)
        new = NewReward(name, parse_points(cost, found.unit, "--cost"), chosen.id, start, end)
        return found, await create_reward(stores.postgres, found.id, new, actor=cli_actor())

    _show(*run_checked(work), as_json)


@commands.command("list")
def list_command(program: str = PROGRAM, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """List the rewards of a program, oldest first."""

    async def work(stores: Stores) -> None:
        from issuer.loyalty.rewards import list_rewards

        found = await chosen_program(stores, program, client)

        async def page(cursor: str | None) -> Page[Reward]:
            return await list_rewards(stores.postgres, found.id, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda reward: reward.to_json(found.unit),
            headers=("name", "cost", "available", "batch", "id"),
            row=lambda reward: (
                reward.name, str(reward.to_json(found.unit)["cost"]), "yes" if reward.is_available else "no",
                str(reward.batch_id), str(reward.id),
            ),
            empty="no rewards: see `issuer loyalty rewards create --help`",
        )  # fmt: skip

    run(work)


@commands.command()
def show(program: str = PROGRAM, reward: str = REWARD, client: str | None = CLIENT, as_json: bool = AS_JSON) -> None:
    """Show a reward."""

    async def work(stores: Stores) -> tuple[Program, Reward]:
        from issuer.loyalty.rewards import find_reward

        found = await chosen_program(stores, program, client)
        return found, await find_reward(stores.postgres, found.id, _id(reward))

    _show(*run_checked(work), as_json)


@commands.command()
def change(
    program: str = PROGRAM,
    reward: str = REWARD,
    name: str | None = typer.Option(None, help="New name."),
    cost: str | None = typer.Option(None, help="New cost. Purchases that were begun keep theirs."),
    batch: str | None = typer.Option(None, help="Name or id of another batch."),
    starts_at: str | None = STARTS_AT,
    ends_at: str | None = typer.Option(None, help="Until when it can be taken; in the past: it is withdrawn."),
    client: str | None = CLIENT,
    as_json: bool = AS_JSON,
) -> None:
    """Change a reward."""
    start, end = instant_option(starts_at, "--starts-at"), instant_option(ends_at, "--ends-at")

    async def work(stores: Stores) -> tuple[Program, Reward]:
        from issuer.access.audit import cli_actor
        from issuer.batches.batch import UNSET
        from issuer.loyalty.amounts import parse_points
        from issuer.loyalty.reward import RewardChanges
        from issuer.loyalty.rewards import change_reward

        found = await chosen_program(stores, program, client)
        changes = RewardChanges(
            name=name,
            cost=None if cost is None else parse_points(cost, found.unit, "--cost"),
            batch_id=(
                None if batch is None else (await named_batch(stores.postgres, batch, client_id=found.client_id)).id
            ),
            starts_at=UNSET if start is None else start,
            ends_at=UNSET if end is None else end,
        )
        return found, await change_reward(stores.postgres, found.id, _id(reward), changes, actor=cli_actor())

    _show(*run_checked(work), as_json)


def _id(given: str) -> UUID:
    found = uuid_option(given, "REWARD")
    if found is None:
        raise InputError("REWARD is missing")
    return found


def _show(program: Program, reward: Reward, as_json: bool) -> None:
    shown = reward.to_json(program.unit)
    if as_json:
        print_json(shown)
    else:
        print_fields(*((name, "-" if value is None else str(value)) for name, value in shown.items()))

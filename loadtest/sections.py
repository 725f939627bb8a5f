"""The sections of the benchmark. The cases of a section alternate within each round."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from uuid import uuid4

from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.instants import EPOCH
from loadtest.baselines import floor_server, postgres_way_server
from loadtest.drivers import ISSUE_PATH, REDEEM_PATH, Load, Target
from loadtest.installation import BenchInstallation
from loadtest.loyalty import loyalty
from loadtest.measuring import Measured, MeasuredInstallation, UnexpectedAnswersError
from loadtest.runs import CONNECTIONS, Bench
from loadtest.stock import make_coupon, make_pool, make_pools, redeemed, settle


async def headline(bench: Bench) -> list[Measured]:
    """Measure one API process: floor, Postgres way, redeem, refusals, and redeem at half of the maximum rate."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "headline") as installation:
        server = MeasuredInstallation.of_installation(installation)
        async with (
            floor_server(bench.directory) as (floor_url, floor),
            postgres_way_server(bench.directory, installation, int(effort.seconds * 8_000 * effort.rounds)) as (
                postgres_load,
                postgres_way,
            ),
        ):
            seconds = effort.seconds
            for _ in range(effort.rounds):
                async with installation.stores() as stores:
                    plain, keyed, empty = await make_pools(stores, 2, effort.stock) + [await make_pool(stores, 1)]
                    await settle(stores)
                customer = uuid4()
                of_round = [
                    await bench.measure("floor", Load(floor_url, [plain], effort.seconds / 2), floor),
                    await bench.measure(
                        "postgres way",
                        Load(postgres_load.url, postgres_load.targets, effort.seconds, connections=CONNECTIONS),
                        postgres_way,
                    ),
                    await bench.measure("redeem", bench.load(installation, [plain], seconds), server),
                    await bench.measure(
                        "redeem, Idempotency-Key", bench.load(installation, [keyed], seconds, keys=True), server
                    ),
                ]
                # Use up the only redemption of the customer and the only code of the pool.
                for load in (
                    bench.load(installation, [plain], 1, customer=customer, connections=1),
                    bench.load(installation, [empty], 1, connections=1),
                ):
                    await bench.driver.send(load)
                of_round.append(
                    await bench.measure(
                        "refused: limit", bench.load(installation, [plain], effort.seconds / 2, customer=customer),
                        server, refused=True,
                    )
                )  # fmt: skip
                of_round.append(
                    await bench.measure(
                        "refused: sold out", bench.load(installation, [empty], effort.seconds / 2), server, refused=True
                    )
                )
                rounds += of_round
                seconds = max(effort.seconds, effort.at_least * 1.05 / of_round[2].per_s)
        maximum = sorted(measured.per_s for measured in rounds if measured.case == "redeem")[effort.rounds // 2]
        rounds += await half_rate(bench, installation, maximum)
    return rounds


async def ids(bench: Bench) -> list[Measured]:
    """Redeem for customers whose ids are UUIDs, and for customers whose ids are texts."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "ids") as installation:
        server = MeasuredInstallation.of_installation(installation)
        for number in range(effort.rounds):
            async with installation.stores() as stores:
                targets = await make_pools(stores, 2, effort.short_stock)
                await settle(stores)
            cases = [("redeem by UUID", targets[0], False), ("redeem by text", targets[1], True)]
            # What comes second finds a larger ledger.
            for name, target, texts in cases if number % 2 == 0 else reversed(cases):
                load = bench.load(installation, [target], effort.short_seconds, texts=texts)
                rounds.append(await bench.measure(name, load, server))
    return rounds


async def half_rate(bench: Bench, installation: BenchInstallation, maximum_per_s: float) -> list[Measured]:
    """Measure redeem at half of the maximum rate, on connections that pause between requests."""
    connections, target_per_s = 2 * CONNECTIONS, maximum_per_s / 2
    think_ms = max(1, round(connections / target_per_s * 1_000))
    server, rounds = MeasuredInstallation.of_installation(installation), []
    async with installation.stores() as stores:
        stock = int(target_per_s * bench.effort.short_seconds * 1.5) * (bench.effort.rounds + 1)
        target = await make_pool(stores, stock)
        await settle(stores)
    for _ in range(bench.effort.rounds):
        load = bench.load(
            installation, [target], bench.effort.short_seconds, connections=connections, think_ms=think_ms
        )
        rounds.append(await bench.measure("redeem at half rate", load, server))
        # The response time adds to the pause; correct for it, so that the next round is closer to half.
        think_ms = max(1, round(think_ms - connections * (1_000 / rounds[-1].per_s - 1_000 / target_per_s)))
    return rounds


async def api_processes(bench: Bench) -> list[Measured]:
    """Measure 1, 2 and 4 API processes."""
    effort, rounds = bench.effort, []
    with ExitStack() as stack:
        installations = [
            stack.enter_context(BenchInstallation(bench.directory / f"api-{count}", api_processes=count))
            for count in (1, 2, 4)
        ]
        for _ in range(effort.rounds):
            for installation in installations:
                async with installation.stores() as stores:
                    target = await make_pool(stores, effort.short_stock)
                    await settle(stores)
                load = bench.load(installation, [target], effort.short_seconds)
                name = f"{installation.api_processes} API processes"
                rounds.append(await bench.measure(name, load, MeasuredInstallation.of_installation(installation)))
    return rounds


async def rate_limit(bench: Bench) -> list[Measured]:
    """Measure the same load without a rate limit and with one that is never reached but counts every request."""
    effort, rounds = bench.effort, []
    with ExitStack() as stack:
        installations = {
            name: stack.enter_context(
                BenchInstallation(bench.directory / f"rate-limit-{limit[0]}", environment={"ISSUER_RATE_LIMIT": limit})
            )
            for name, limit in (("no rate limit", "off"), ("rate limit by key and address", "1000000/s"))
        }
        for _ in range(effort.rounds):
            for name, installation in installations.items():
                async with installation.stores() as stores:
                    target = await make_pool(stores, effort.short_stock)
                    await settle(stores)
                load = bench.load(installation, [target], effort.short_seconds)
                rounds.append(await bench.measure(name, load, MeasuredInstallation.of_installation(installation)))
    return rounds


async def connections(bench: Bench) -> list[Measured]:
    """Measure 16 to 1,024 connections."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "connections") as installation:
        for _ in range(effort.rounds):
            for count in (16, 64, 256, 1_024):
                async with installation.stores() as stores:
                    # Full calls are the fastest, and a thousand connections fill them, so more stock is needed.
                    target = await make_pool(stores, 2 * effort.short_stock)
                load = bench.load(installation, [target], effort.short_seconds, connections=count)
                rounds.append(
                    await bench.measure(
                        f"{count} connections", load, MeasuredInstallation.of_installation(installation)
                    )
                )
    return rounds


async def batches(bench: Bench) -> list[Measured]:
    """Send every request to a random one of 1, 100 or 10,000 batches."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "batches") as installation:
        targets = {}
        async with installation.stores() as stores:
            for count in effort.batches:
                # Half as much again, and a reserve for chance: no pool may sell out.
                each = effort.short_stock * effort.rounds // count * 3 // 2 + 30
                targets[count] = await make_pools(stores, count, each)
            await settle(stores)
        for _ in range(effort.rounds):
            for count in effort.batches:
                load = bench.load(installation, targets[count], effort.short_seconds)
                rounds.append(
                    await bench.measure(f"{count} batches", load, MeasuredInstallation.of_installation(installation))
                )
    return rounds


SMALL_POOL = 10_000
POOL_SECONDS = 2.0


async def pools(bench: Bench) -> list[Measured]:
    """Measure pools of three sizes, fresh and partly used. Used codes are in the ledger; rounds redeem the others."""
    effort, rounds = bench.effort, []
    needed = int(POOL_SECONDS * effort.fastest_per_s)
    left = needed * effort.rounds
    # A small pool lasts less than a second, so a round uses many of them, one after the other.
    small = left // SMALL_POOL + effort.rounds
    with BenchInstallation(bench.directory / "pools") as installation:
        loads: dict[str, list[list[Target]]] = {}
        async with installation.stores() as stores:
            for used in (0, SMALL_POOL // 2):
                fresh = await make_pools(stores, small * SMALL_POOL // (SMALL_POOL - used), SMALL_POOL, used=used)
                share = len(fresh) // effort.rounds
                parts = [fresh[i * share : (i + 1) * share] for i in range(effort.rounds)]
                loads[_pool_name(SMALL_POOL, used)] = parts
            for size in (effort.middle_pool, effort.large_pool):
                for used in dict.fromkeys((0, size // 2, max(0, size - left))):
                    print(f"  creating a pool of {size:,} codes, {used:,} used", flush=True)
                    target = await make_pool(stores, size, used=used)
                    loads[_pool_name(size, used)] = [[target]] * effort.rounds
            await settle(stores)
            await asyncio.sleep(2)
        for number in range(effort.rounds):
            for name, parts in loads.items():
                targets = parts[number]
                # The requests in flight at the change to the next small pool must still find a code in this one.
                per_target = 0 if len(targets) == 1 else _small_share(name)
                load = bench.load(installation, targets, POOL_SECONDS, per_target=per_target)
                rounds.append(await bench.measure(name, load, MeasuredInstallation.of_installation(installation)))
    return rounds


def _pool_name(size: int, used: int) -> str:
    return f"pool of {size:,}, {used / size:.0%} used"


def _small_share(name: str) -> int:
    return SMALL_POOL // 2 - 10 if "50%" in name else SMALL_POOL - 10


CODE = "BENCH-20"


async def coupons(bench: Bench) -> list[Measured]:
    """Measure uses of one coupon beside redemptions from one pool; the order alternates from round to round.

    The two rates are close, so there are twice as many rounds as in other sections.
    """
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "coupons") as installation:
        server = MeasuredInstallation.of_installation(installation)
        consume = installation.redeem_url.replace(REDEEM_PATH, f"/coupon/consume/?code={CODE}")
        for number in range(2 * effort.rounds):
            async with installation.stores() as stores:
                pool = await make_pool(stores, effort.short_stock)
                coupon, keyed = [await make_coupon(stores, CODE, effort.short_stock) for _ in range(2)]
                await settle(stores)
            redeem = bench.load(installation, [pool], effort.short_seconds)
            use = replace(redeem, url=consume, targets=[coupon], coupon=True)
            cases = [("redeem", redeem), ("consume", use)]
            for case, load in reversed(cases) if number % 2 else cases:
                rounds.append(await bench.measure(case, load, server))
            use = replace(use, targets=[keyed], keys=True)
            rounds.append(await bench.measure("consume, Idempotency-Key", use, server))
    return rounds


async def campaign(bench: Bench) -> list[Measured]:
    """Measure IssueCoupon in JSON beside redeem: the same work, but without a customer id and without limits."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "campaign") as installation:
        server = MeasuredInstallation.of_installation(installation)
        for _ in range(effort.rounds):
            async with installation.stores() as stores:
                plain = await make_pool(stores, effort.short_stock)
                new = NewCampaign(name="benchmark", total=effort.short_stock, starts_at=EPOCH)
                created = await create_campaign(stores, new, actor="cli:bench")
                await settle(stores)
            load = bench.load(installation, [plain], effort.short_seconds)
            rounds.append(await bench.measure("redeem", load, server))
            coupons = [Target(created.id, created.client_id)]
            load = bench.load(installation, coupons, effort.short_seconds)
            load = replace(load, url=load.url.removesuffix(REDEEM_PATH) + ISSUE_PATH)
            rounds.append(await bench.measure("IssueCoupon, JSON", load, server))
            async with installation.stores() as stores:
                # A campaign that is sold out returns 200 too.
                if await redeemed(stores, coupons) < rounds[-1].requests * 0.999:
                    raise UnexpectedAnswersError("IssueCoupon issued fewer codes than it returned responses")
    return rounds


SECTIONS = {
    "headline": headline,
    "api processes": api_processes,
    "rate limit": rate_limit,
    "connections": connections,
    "batches": batches,
    "pools": pools,
    "ids": ids,
    "coupons": coupons,
    "campaign": campaign,
    "loyalty": loyalty,
}

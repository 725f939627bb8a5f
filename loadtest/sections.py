"""What the benchmark measures, section by section. Cases of a section take turns within a round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.instants import EPOCH
from loadtest.drivers import ISSUE_PATH, REDEEM_PATH, Driver, Load, Target
from loadtest.installation import BenchInstallation
from loadtest.measuring import Measured, MeasuredInstallation, UnexpectedAnswersError, measure
from loadtest.postgres_way import FILL, TABLE
from loadtest.processes import LoggedProgram, accepts, free_port, python_module
from loadtest.stock import make_coupon, make_pool, make_pools, redeemed, settle

CONNECTIONS = 64
SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a run is."""

    rounds: int
    seconds: float
    """Of one round of the headline cases."""
    short_seconds: float
    """Of one round of the scaling cases."""
    at_least: int
    """Redemptions of a headline round: it is longer than `seconds` where it must be."""
    fastest_per_s: int
    """What stock must be there for."""
    large_pool: int
    middle_pool: int
    batches: tuple[int, ...]

    @property
    def stock(self) -> int:
        return max(self.at_least * 3 // 2, int(self.seconds * self.fastest_per_s))

    @property
    def short_stock(self) -> int:
        return int(self.short_seconds * self.fastest_per_s)


THOROUGH = Effort(3, 20.0, 8.0, 200_000, 30_000, 5_000_000, 1_000_000, (1, 100, 10_000))
QUICK = Effort(2, 4.0, 2.0, 0, 30_000, 200_000, 50_000, (1, 100, 1_000))


class Bench:
    """One run: where it works, how it drives, what it says while it runs."""

    def __init__(self, directory: Path, driver: Driver, effort: Effort) -> None:
        self.directory = directory
        self.driver = driver
        self.effort = effort

    async def measure(self, case: str, load: Load, server: MeasuredInstallation, *, refused: bool = False) -> Measured:
        # What made the stock ends its connections: their CPU time must not move between processes while we look.
        await asyncio.sleep(SETTLE_S)
        measured = await measure(case, self.driver, load, server, refused=refused)
        cpu = " ".join(f"{role} {us:.1f}" for role, us in measured.cpu_us.items())
        print(
            f"  {case:34} {measured.per_s:9,.0f}/s  p50 {measured.p50_ms:6.2f} ms  p99 {measured.p99_ms:7.2f} ms"
            f"  caught up {measured.catch_up_s:5.2f} s  CPU µs: {cpu}",
            flush=True,
        )
        return measured

    def load(self, installation: BenchInstallation, targets: Sequence[Target], seconds: float, **more: object) -> Load:
        return Load(
            installation.redeem_url, targets, seconds, api_key=installation.api_key,
            **{"connections": CONNECTIONS, **more},  # type: ignore[arg-type]
        )  # fmt: skip


@asynccontextmanager
async def _floor(directory: Path) -> AsyncIterator[tuple[str, MeasuredInstallation]]:
    port = free_port()
    program = LoggedProgram(python_module("loadtest.floor", "--port", str(port)), directory / "floor.log")
    program.start(lambda: accepts(port), "the floor")
    try:
        yield f"http://127.0.0.1:{port}{REDEEM_PATH}", MeasuredInstallation.of_process(program.pid)
    finally:
        program.stop()


@asynccontextmanager
async def _postgres_way(
    directory: Path, installation: BenchInstallation, codes: int
) -> AsyncIterator[tuple[Load, MeasuredInstallation]]:
    """In a database of its own of the installation's Postgres: the same settings, the same disk."""
    target = Target(uuid4(), uuid4())
    async with installation.postgres() as postgres:
        await postgres.execute("CREATE DATABASE row_lock")
    parts = urlsplit(installation.running.database_url)
    url = parts._replace(path="/row_lock").geturl()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLE)
        await connection.execute(FILL, target.batch_id, target.client_id, codes, timeout=3_600)
        await connection.execute("VACUUM ANALYZE row_lock_codes", timeout=3_600)
    finally:
        await connection.close()
    port = free_port()
    command = python_module("loadtest.postgres_way", "--port", str(port), "--database-url", url)
    program = LoggedProgram(command, directory / "postgres-way.log")
    program.start(lambda: accepts(port), "the Postgres way")
    try:
        load = Load(f"http://127.0.0.1:{port}{REDEEM_PATH}", [target], 0, connections=CONNECTIONS)
        yield load, MeasuredInstallation.of_process(program.pid, installation.cpu_s)
    finally:
        program.stop()


async def headline(bench: Bench) -> list[Measured]:
    """One API process: floor, Postgres way, redeem, with keys, refused, sold out; then half of the maximum rate."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "headline") as installation:
        server = MeasuredInstallation.of_installation(installation)
        async with (
            _floor(bench.directory) as (floor_url, floor),
            _postgres_way(bench.directory, installation, int(effort.seconds * 8_000 * effort.rounds)) as (slow, way),
        ):
            seconds = effort.seconds
            for _ in range(effort.rounds):
                async with installation.stores() as stores:
                    plain, keyed, empty = await make_pools(stores, 2, effort.stock) + [await make_pool(stores, 1)]
                    await settle(stores)
                one = uuid4()
                some = [
                    await bench.measure("floor", Load(floor_url, [plain], effort.seconds / 2), floor),
                    await bench.measure(
                        "postgres way", Load(slow.url, slow.targets, effort.seconds, connections=CONNECTIONS), way
                    ),
                    await bench.measure("redeem", bench.load(installation, [plain], seconds), server),
                    await bench.measure(
                        "redeem, Idempotency-Key", bench.load(installation, [keyed], seconds, keys=True), server
                    ),
                ]
                # The customer's only redemption and the pool's only code go first.
                for load in (
                    bench.load(installation, [plain], 1, customer=one, connections=1),
                    bench.load(installation, [empty], 1, connections=1),
                ):
                    await bench.driver.send(load)
                some.append(
                    await bench.measure(
                        "refused: limit", bench.load(installation, [plain], effort.seconds / 2, customer=one),
                        server, refused=True,
                    )
                )  # fmt: skip
                some.append(
                    await bench.measure(
                        "refused: sold out", bench.load(installation, [empty], effort.seconds / 2), server, refused=True
                    )
                )
                rounds += some
                seconds = max(effort.seconds, effort.at_least * 1.05 / some[2].per_s)
        maximum = sorted(measured.per_s for measured in rounds if measured.case == "redeem")[effort.rounds // 2]
        rounds += await half_rate(bench, installation, maximum)
    return rounds


async def half_rate(bench: Bench, installation: BenchInstallation, maximum_per_s: float) -> list[Measured]:
    """Connections that pause between requests so that together they send half of what is possible."""
    connections, wanted = 2 * CONNECTIONS, maximum_per_s / 2
    think_ms = max(1, round(connections / wanted * 1_000))
    server, rounds = MeasuredInstallation.of_installation(installation), []
    async with installation.stores() as stores:
        stock = int(wanted * bench.effort.short_seconds * 1.5) * (bench.effort.rounds + 1)
        target = await make_pool(stores, stock)
        await settle(stores)
    for _ in range(bench.effort.rounds):
        load = bench.load(
            installation, [target], bench.effort.short_seconds, connections=connections, think_ms=think_ms
        )
        rounds.append(await bench.measure("redeem at half rate", load, server))
        # What the answers took is part of the pause: the next round comes nearer to half.
        think_ms = max(1, round(think_ms - connections * (1_000 / rounds[-1].per_s - 1_000 / wanted)))
    return rounds


async def api_processes(bench: Bench) -> list[Measured]:
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
    """The same load without a limit and with one that is never reached, so that every request is counted."""
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
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "connections") as installation:
        for _ in range(effort.rounds):
            for count in (16, 64, 256, 1_024):
                async with installation.stores() as stores:
                    # A thousand connections fill the calls, which are at their fastest then.
                    target = await make_pool(stores, 2 * effort.short_stock)
                load = bench.load(installation, [target], effort.short_seconds, connections=count)
                rounds.append(
                    await bench.measure(
                        f"{count} connections", load, MeasuredInstallation.of_installation(installation)
                    )
                )
    return rounds


async def batches(bench: Bench) -> list[Measured]:
    """Every request goes to a random one of so many batches."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "batches") as installation:
        targets = {}
        async with installation.stores() as stores:
            for count in effort.batches:
                # Half as much again, and some for chance: the fullest pool must not sell out.
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
    """Pools of three sizes, fresh and used. Used codes are in the ledger; the rounds take what is left of a pool."""
    effort, rounds = bench.effort, []
    needed = int(POOL_SECONDS * effort.fastest_per_s)
    left = needed * effort.rounds
    # A small pool lasts for less than a second: many of them, one after the other.
    small = left // SMALL_POOL + effort.rounds
    with BenchInstallation(bench.directory / "pools") as installation:
        loads: dict[str, list[list[Target]]] = {}
        async with installation.stores() as stores:
            for used in (0, SMALL_POOL // 2):
                made = await make_pools(stores, small * SMALL_POOL // (SMALL_POOL - used), SMALL_POOL, used=used)
                share = len(made) // effort.rounds
                parts = [made[i * share : (i + 1) * share] for i in range(effort.rounds)]
                loads[_pool_name(SMALL_POOL, used)] = parts
            for size in (effort.middle_pool, effort.large_pool):
                for used in dict.fromkeys((0, size // 2, max(0, size - left))):
                    print(f"  making a pool of {size:,} codes, {used:,} used", flush=True)
                    target = await make_pool(stores, size, used=used)
                    loads[_pool_name(size, used)] = [[target]] * effort.rounds
            await settle(stores)
            await asyncio.sleep(2)
        for number in range(effort.rounds):
            for name, parts in loads.items():
                targets = parts[number]
                # The last requests on their way to one small pool must still find a code in it.
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
    """Uses of one coupon beside redemptions from one pool; what is first in one round is second in the next.

    The two are near each other, so there are twice as many rounds as elsewhere.
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
    """IssueCoupon in JSON beside redeem: the same work, but for a customer who is nobody and has no limits."""
    effort, rounds = bench.effort, []
    with BenchInstallation(bench.directory / "campaign") as installation:
        server = MeasuredInstallation.of_installation(installation)
        for _ in range(effort.rounds):
            async with installation.stores() as stores:
                plain = await make_pool(stores, effort.short_stock)
                new = NewCampaign(name="benchmark", total=effort.short_stock, starts_at=EPOCH)
                made = await create_campaign(stores, new, actor="cli:bench")
                await settle(stores)
            load = bench.load(installation, [plain], effort.short_seconds)
            rounds.append(await bench.measure("redeem", load, server))
            coupons = [Target(made.id, made.client_id)]
            load = bench.load(installation, coupons, effort.short_seconds)
            load = replace(load, url=load.url.removesuffix(REDEEM_PATH) + ISSUE_PATH)
            rounds.append(await bench.measure("IssueCoupon, JSON", load, server))
            async with installation.stores() as stores:
                # A campaign that is sold out answers 200, too.
                if await redeemed(stores, coupons) < rounds[-1].requests * 0.999:
                    raise UnexpectedAnswersError("IssueCoupon gave fewer codes than answers")
    return rounds


SECTIONS = {
    "headline": headline,
    "api processes": api_processes,
    "rate limit": rate_limit,
    "connections": connections,
    "batches": batches,
    "pools": pools,
    "coupons": coupons,
    "campaign": campaign,
}

"""An installation that an earlier version has left, kept in the repository: later versions must continue it.

`python -m tests.support.kept_installation` makes it with the program that is checked out. It is made once for a key and
event format, by the last commit that has them. Keys of Redis are kept with the time that they have left, so an answer
that was kept under an Idempotency-Key never expires here.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
import uuid
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from issuer.backups.programs import run_program
from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.contract.events import encode_order
from issuer.contract.outcomes import Outcome
from issuer.coupons.coupon import CouponTerms
from issuer.coupons.locations import CouponLocations
from issuer.coupons.store import create_coupon
from issuer.engine.calls import Answer
from issuer.engine.engine import Engine
from issuer.pools.top_up import top_up
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.postgres import own_connection
from tests.support.databases import create_migrated, settings_for
from tests.support.recovery import CLIENT, blessed_again, drain, engine_of, make_batch, ready, redeem
from tests.support.servers import PostgresServer, RedisServer

DIRECTORY: Final = Path(__file__).parents[1] / "data" / "kept_installation"
DUMP: Final = "postgres.dump"
KEYS: Final = "redis.json"
FACTS: Final = "facts.json"
KEY: Final = "kept-order"
COUPON: Final = "KEPT-20"
MAX_BACKLOG: Final = 50
LIMIT: Final[dict[str, object]] = {"limits": [{"max": 1, "seconds": 30 * 86_400}]}


@dataclass(frozen=True, slots=True)
class KeptFacts:
    """What is in it. `code`: what `customer` got for KEY. `recorded`, `unread`: codes in the ledger, in the streams."""

    batch_id: str
    campaign_id: str
    customer: str
    code: str
    recorded: int
    unread: int
    used: int
    quarantined: int


async def use(engine: Engine, count: int) -> list[Answer]:
    """Use the coupon, each time for another customer."""
    place = CouponLocations(engine).find(CLIENT, COUPON)
    futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for number, future in enumerate(futures):
        engine.submit(future, place.use, uuid.uuid4().bytes, 0, None, place.bare_wish, encode_order(f"order {number}"))
    return list(await asyncio.gather(*futures))


def granted(answers: list[Answer]) -> int:
    """Return how many there are; each of them is granted."""
    assert {answer.outcome for answer in answers} == {Outcome.GRANTED}
    return len(answers)


async def _fill(settings: Settings) -> KeptFacts:
    async with open_stores(settings) as stores:
        batch_id, customer = await make_batch(stores, 500, LIMIT), uuid.uuid4()
        async with engine_of(settings, stores) as engine:
            recorded = granted(await redeem(engine, batch_id, 5))
            await drain(stores)
            await redeem(engine, batch_id, 3)  # lost with Redis: codes are quarantined
            await stores.redis.client.flushall()
            await blessed_again(stores)
            await top_up(stores)
            await ready(engine)
            await create_coupon(stores, CLIENT, COUPON, CouponTerms(20), actor="test")
            new = NewCampaign("Kept", 50, datetime(2020, 1, 1, tzinfo=UTC), client_id=CLIENT)
            campaign = await create_campaign(stores, new, actor="test")
            first = await engine.redeem(engine.pool_ref(batch_id, CLIENT), customer.bytes, idempotency_key=KEY)
            recorded += granted([first]) + granted(await redeem(engine, campaign.id, 2))
            used = granted(await use(engine, 3))
            await drain(stores)
            unread = granted(await redeem(engine, batch_id, 4)) + granted(await redeem(engine, campaign.id, 1))
            used += granted(await use(engine, 2))
        quarantined = await stores.postgres.fetchval("SELECT count(*) FROM quarantined")
    ids = str(batch_id), str(campaign.id), str(customer)
    return KeptFacts(*ids, str(first.code), recorded, unread, used, quarantined)


def _read_keys(server: RedisServer) -> dict[str, tuple[int, str]]:
    with server.client() as client:
        return {
            base64.b64encode(key).decode(): (max(0, client.pttl(key)), base64.b64encode(client.dump(key)).decode())
            for key in sorted(client.scan_iter(count=1_000))
        }


def make(directory: Path = DIRECTORY) -> None:
    """Make the installation with this program, and keep it."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer(path / "redis"))
        server = stack.enter_context(PostgresServer(path / "postgres", durable=False))
        create_migrated(server, "kept")
        settings = settings_for(redis.url(), server.url("kept"), path)
        settings = settings.model_copy(update={"journal": "off", "max_backlog": MAX_BACKLOG})
        made = asyncio.run(_fill(settings))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / KEYS).write_bytes(orjson.dumps(_read_keys(redis), option=orjson.OPT_INDENT_2) + b"\n")
        options = ("--format=custom", "--compress=9", "--no-owner", "--no-privileges", f"--file={directory / DUMP}")
        asyncio.run(run_program("pg_dump", settings, *options))
        (directory / FACTS).write_bytes(orjson.dumps(asdict(made), option=orjson.OPT_INDENT_2) + b"\n")


def facts() -> KeptFacts:
    return KeptFacts(**orjson.loads((DIRECTORY / FACTS).read_bytes()))


# As if the very servers had been stopped: what they are called is another thing here.
_NAME_SERVERS: Final = """
WITH named AS (UPDATE installation SET database = NULL)
UPDATE incarnations SET server = server || jsonb_build_object('address', $1::text, 'directory', $2::text)"""


async def put(settings: Settings, redis: RedisServer) -> None:
    """Put it on an empty Redis server and into an empty database."""
    await run_program("pg_restore", settings, "--no-owner", "--no-privileges", "--exit-on-error", str(DIRECTORY / DUMP))
    async with own_connection(settings, timeout_s=10) as connection:
        await connection.execute(_NAME_SERVERS, f"127.0.0.1:{redis.port}/0", str(redis.directory))
    with redis.client() as client:
        for key, (left_ms, value) in orjson.loads((DIRECTORY / KEYS).read_bytes()).items():
            client.restore(base64.b64decode(key), left_ms, base64.b64decode(value))


if __name__ == "__main__":
    make()

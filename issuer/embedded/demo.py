"""The demo batch of `issuer up --demo`, and the line that redeems a code when it is pasted into a shell."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from issuer.storage.postgres import Pool
from issuer.storage.stores import Stores

NAME: Final = "Demo"
CLIENT_ID: Final = UUID("d3300000-0000-4000-8000-000000000001")
CODES: Final = 1_000
RULES: Final = {"maxpercustomer": 2, "timelimit": 30}
ACTOR: Final = "cli:up --demo"


async def make_demo(stores: Stores) -> None:
    """Makes the demo batch. Killed half-way and run again it finishes the same one."""
    from issuer.batches.rules import parse_rules
    from issuer.batches.store import find_or_create_batch
    from issuer.loading.preload import preload_csv

    batch, _ = await find_or_create_batch(stores, name=NAME, rules=parse_rules(RULES), actor=ACTOR)
    lines = ["client_id,code", *(f"{CLIENT_ID},DEMO-{number:04d}" for number in range(1, CODES + 1))]
    await preload_csv(stores, io.BytesIO("\n".join(lines).encode()), batch_id=batch.id, actor=ACTOR)


@dataclass(frozen=True, slots=True)
class DemoPool:
    """A pool that codes can be redeemed from."""

    batch_id: UUID
    client_id: UUID


_REDEEMABLE: Final = """
SELECT batch_id, client_id FROM pools JOIN batches ON batches.id = batch_id
WHERE kind = 'codes' AND pools.total > 0
  AND NOT paused AND ended_at IS NULL AND (ends_at IS NULL OR ends_at > now())
  AND (starts_at IS NULL OR starts_at <= now())
ORDER BY name = $1 DESC, batches.created_at DESC LIMIT 1"""


async def find_offer(postgres: Pool) -> DemoPool | None:
    """The demo batch, or else the newest one that can be redeemed from; None if there is none."""
    row = await postgres.fetchrow(_REDEEMABLE, NAME)
    return DemoPool(row["batch_id"], row["client_id"]) if row is not None else None


def curl_line(url: str, offer: DemoPool, api_key: str | None) -> str:
    """One line for a POSIX shell. The customer is a new one each time, so no limit stands in the way."""
    body = {"batchid": str(offer.batch_id), "clientid": str(offer.client_id), "customerid": str(uuid4())}
    key = f" -H 'Authorization: Bearer {api_key}'" if api_key is not None else ""
    return f"curl -sS {url}/api/v1/code/redeem -H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'"

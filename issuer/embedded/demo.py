"""The demo batch of `issuer up --demo`, and the shell command that redeems one of its codes."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final
from uuid import UUID, uuid4

from issuer.ids import Identity
from issuer.storage.postgres import Pool
from issuer.storage.stores import Stores

NAME: Final = "Demo"
CLIENT_ID: Final = UUID("d3300000-0000-4000-8000-000000000001")
CLIENT_NAME: Final = "Demo shop"
CODES: Final = 1_000
RULES: Final = {"maxpercustomer": 2, "timelimit": 30}
ACTOR: Final = "cli:up --demo"


async def create_demo(stores: Stores) -> None:
    """Create the demo batch. Stopped half-way, a repetition completes the same batch."""
    from issuer.batches.batch import NewBatch
    from issuer.batches.rules import parse_rules
    from issuer.batches.store import find_or_create_batch
    from issuer.clients.registry import ClientExistsError, create_client
    from issuer.loading.preload import preload_file

    with suppress(ClientExistsError):
        await create_client(stores, Identity(CLIENT_ID.bytes, None), name=CLIENT_NAME, actor=ACTOR)
    batch, _ = await find_or_create_batch(stores, NewBatch(NAME, parse_rules(RULES)), actor=ACTOR)
    lines = ["client_id,code", *(f"{CLIENT_ID},DEMO-{number:04d}" for number in range(1, CODES + 1))]
    await preload_file(stores, io.BytesIO("\n".join(lines).encode()), batch_id=batch.id, actor=ACTOR)


@dataclass(frozen=True, slots=True)
class DemoPool:
    """A pool from which codes can be redeemed."""

    batch_id: UUID
    client_id: UUID


_REDEEMABLE: Final = """
SELECT batch_id, client_id FROM pools JOIN batches ON batches.id = batch_id
WHERE kind = 'codes' AND pools.total > 0
  AND NOT paused AND ended_at IS NULL AND (ends_at IS NULL OR ends_at > now())
  AND (starts_at IS NULL OR starts_at <= now())
ORDER BY name = $1 DESC, batches.created_at DESC LIMIT 1"""


async def find_pool(postgres: Pool) -> DemoPool | None:
    """Return a pool of the demo batch, or else of the newest open batch with codes; None if there is none."""
    row = await postgres.fetchrow(_REDEEMABLE, NAME)
    return DemoPool(row["batch_id"], row["client_id"]) if row is not None else None


def curl_command(url: str, pool: DemoPool, key_file: Path | None) -> str:
    """Return a command for a POSIX shell, which reads the API key from its file. Its customer is a new one, so no limit
    refuses it.
    """
    body = {"batchid": str(pool.batch_id), "clientid": str(pool.client_id), "customerid": str(uuid4())}
    key = "" if key_file is None else f' -H "Authorization: Bearer $(cat {quote(str(key_file))})"'
    return f"curl -sS {url}/api/v1/code/redeem -H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'"

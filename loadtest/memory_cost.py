"""Redis bytes per loaded code, per customer with a limit, and per Idempotency-Key."""

from __future__ import annotations

from typing import Any

import redis as blocking

from issuer.contract.keys import partition_keys
from loadtest.script_alone import PARTITION, StandaloneRedis, load_pools, run_calls

CODES = 256_000
CALL_BATCH_SIZE = 64


def _used(client: blocking.Redis) -> int:
    """Return the bytes of the data set, without buffers and the memory that an empty server uses."""
    info: Any = client.info("memory")
    return int(info["used_memory_dataset"])


def _delete_transient_keys(client: blocking.Redis) -> None:
    """Delete what exists for seconds only: the stream, which the worker trims, and the stored replies of calls."""
    prefix = partition_keys(PARTITION).prefix
    client.delete(partition_keys(PARTITION).stream)
    for name in client.scan_iter(match=f"{prefix}c:*", count=1_000):
        client.delete(name)


async def measure_memory(codes: int = CODES) -> dict[str, float]:
    """Return bytes per item by kind. Each kind has its own server, so that it cannot reuse freed memory of another."""
    figures: dict[str, float] = {}
    used = {}
    for kind, limits, with_keys in (("nothing", "", False), ("customer", "1:0", False), ("key", "", True)):
        with StandaloneRedis() as redis, redis.client() as client:
            empty = _used(client)
            pools = load_pools(redis, 1, codes, limits)
            if kind == "nothing":
                figures["code"] = (_used(client) - empty) / codes
            await run_calls(
                redis, pools, calls=codes // CALL_BATCH_SIZE, redemptions_per_call=CALL_BATCH_SIZE, with_keys=with_keys
            )
            _delete_transient_keys(client)
            used[kind] = _used(client)
    figures["limited_customer"] = (used["customer"] - used["nothing"]) / codes
    figures["idempotency_key"] = (used["key"] - used["nothing"]) / codes
    return {name: round(value, 1) for name, value in figures.items()}

"""Redis bytes for each code that waits, each customer with a limit, each Idempotency-Key."""

from __future__ import annotations

from typing import Any

import redis as blocking

from issuer.contract.keys import partition_keys
from loadtest.script_alone import PARTITION, LoneRedis, load_pools, run_calls

CODES = 256_000
A_CALL = 64


def _used(client: blocking.Redis) -> int:
    """Bytes of the data set: what the server has besides (buffers, its own start) does not count."""
    info: Any = client.info("memory")
    return int(info["used_memory_dataset"])


def _drop_traces(client: blocking.Redis) -> None:
    """What is there for seconds only: the stream, which the worker empties, and the kept calls."""
    prefix = partition_keys(PARTITION).prefix
    client.delete(partition_keys(PARTITION).stream)
    for name in client.scan_iter(match=f"{prefix}c:*", count=1_000):
        client.delete(name)


async def measure_memory(codes: int = CODES) -> dict[str, float]:
    """Bytes each, by kind. A server of its own for each kind, so that freed memory of one is not used by the other."""
    figures: dict[str, float] = {}
    kept = {}
    for kind, limits, with_keys in (("nothing", "", False), ("customer", "1:0", False), ("key", "", True)):
        with LoneRedis() as redis, redis.client() as client:
            empty = _used(client)
            pools = load_pools(redis, 1, codes, limits)
            if kind == "nothing":
                figures["code"] = (_used(client) - empty) / codes
            await run_calls(redis, pools, calls=codes // A_CALL, redemptions_a_call=A_CALL, with_keys=with_keys)
            _drop_traces(client)
            kept[kind] = _used(client)
    figures["limited_customer"] = (kept["customer"] - kept["nothing"]) / codes
    figures["idempotency_key"] = (kept["key"] - kept["nothing"]) / codes
    return {name: round(value, 1) for name, value in figures.items()}

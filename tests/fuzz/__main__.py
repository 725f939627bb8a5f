"""Run the fuzzer: ``python -m tests.fuzz --requests 60000 --seed 2``, or ``make fuzz ARGS="…"``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from pydantic import SecretStr

from issuer.settings import Settings
from tests.fuzz.fuzz import MAX_GROWTH_BYTES, fuzz
from tests.support.databases import clone_database, create_template, fresh_redis_url
from tests.support.servers import PostgresServer, RedisServer


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the framing of HTTP through raw sockets.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="issuer-fuzz-") as name:
        directory = Path(name)
        with (
            RedisServer(directory / "redis") as redis,
            PostgresServer(directory / "postgres", durable=False) as postgres,
        ):
            create_template(postgres)
            settings = Settings(
                redis_url=SecretStr(fresh_redis_url(redis)),
                database_url=SecretStr(clone_database(postgres)),
                partitions=4,
                data_dir=directory / ".issuer",
            )
            result = fuzz(settings, directory, seed=options.seed, requests=options.requests)
    print(f"seed {options.seed}: {result}", *result.problems, sep="\n")
    return 1 if result.problems or result.growth >= MAX_GROWTH_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())

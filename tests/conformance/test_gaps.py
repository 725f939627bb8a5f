"""Each line of `tests.conformance.gaps` is true: the servers show it and fakeredis does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import redis

from tests.conformance.gaps import Gap
from tests.support.stores import FakeStore, Store

Probe = Callable[[redis.Redis], bool]


def accepts(*command: str) -> Probe:
    def probe(client: redis.Redis) -> bool:
        try:
            client.execute_command(*command)
        except redis.ResponseError:
            return False
        return True

    return probe


def knows(*command: str) -> Probe:
    def probe(client: redis.Redis) -> bool:
        try:
            client.execute_command(*command)
        except redis.ResponseError as error:
            return "unknown command" not in str(error)
        return True

    return probe


def refuses(*command: str) -> Probe:
    return lambda client: not accepts(*command)(client)


def short_of_memory(client: redis.Redis) -> bool:
    client.config_set("maxmemory", 1)
    try:
        return refuses("SET", "key", "value")(client)
    finally:
        client.config_set("maxmemory", 0)


def version_in_scripts(client: redis.Redis) -> bool:
    return client.eval("return redis.REDIS_VERSION_NUM", 0) is not None


def runs_elsewhere(client: redis.Redis) -> bool:
    """Whether thousands of commands in a script cost this process no CPU time to speak of."""
    began = time.process_time()
    client.eval("for i = 1, 5000 do redis.call('GET', KEYS[1]) end", 1, "key")
    return time.process_time() - began < 0.02


PROBES: Final[dict[Gap, Probe]] = {
    Gap.MAXMEMORY: short_of_memory,
    Gap.REPLICAS: accepts("ROLE"),
    Gap.VERSION: version_in_scripts,
    Gap.IDENTITY: accepts("INFO", "server"),
    Gap.PERSISTENCE: accepts("CONFIG", "GET", "appendfsync"),
    Gap.SLOTS: knows("CLUSTER", "KEYSLOT", "{p00}"),
    Gap.SANDBOX: refuses("EVAL", "redis.call = redis.pcall", "0"),
    Gap.FLAGS: accepts("EVAL", "#!lua flags=no-writes\nreturn 1", "0"),
    Gap.DATABASES: accepts("SELECT", "4000"),
    Gap.SPEED: runs_elsewhere,
}


DECISION: Final = Path(__file__).parents[2] / "docs" / "decisions" / "0020-conformance-suite.md"


@pytest.mark.parametrize("gap", Gap, ids=lambda gap: gap.name.lower())
def test_what_fakeredis_cannot_show(store: Store, client: redis.Redis, gap: Gap) -> None:
    assert PROBES[gap](client) is not isinstance(store, FakeStore)


def test_the_decision_lists_every_gap() -> None:
    rows = [line for line in DECISION.read_text().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{gap.name}` | {gap} |" for gap in Gap]

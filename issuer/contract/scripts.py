"""The Lua scripts of the package, by name. One file is one atomic step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text as packaged, and the digest by which EVALSHA calls it."""

    name: str
    text: str
    sha: str


def _load(name: str) -> Script:
    text = files("issuer.contract").joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


REDEEM: Final = _load("redeem")
ACK_EVENTS: Final = _load("ack_events")
OPEN_POOL: Final = _load("open_pool")
LOAD_CODES: Final = _load("load_codes")
PUT_BATCH: Final = _load("put_batch")
PUT_WINDOWS: Final = _load("put_windows")
PUT_ANSWERS: Final = _load("put_answers")
RETURN_USES: Final = _load("return_uses")
CREATE_GROUP: Final = _load("create_group")
BLESS_PARTITION: Final = _load("bless_partition")
BEAT_PARTITION: Final = _load("beat_partition")
REBUILD_POOL: Final = _load("rebuild_pool")
SET_CLOCK: Final = _load("set_clock")
SET_MAX_BACKLOG: Final = _load("set_max_backlog")
MARK_LINEAGE: Final = _load("mark_lineage")
REMOVE_CONSUMERS: Final = _load("remove_consumers")
EMPTY_POOL: Final = _load("empty_pool")
LEASE_TOKENS: Final = _load("lease_tokens")

ALL: Final = (
    REDEEM,
    ACK_EVENTS,
    OPEN_POOL,
    LOAD_CODES,
    PUT_BATCH,
    PUT_WINDOWS,
    PUT_ANSWERS,
    RETURN_USES,
    CREATE_GROUP,
    BLESS_PARTITION,
    BEAT_PARTITION,
    REBUILD_POOL,
    SET_CLOCK,
    SET_MAX_BACKLOG,
    MARK_LINEAGE,
    REMOVE_CONSUMERS,
    EMPTY_POOL,
    LEASE_TOKENS,
)

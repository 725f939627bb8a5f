"""The only place where a Redis key is spelled. Contract between the API, the worker and the recovery.

Every key of a partition carries the partition's hash tag, ``{p07}``: all keys that one script touches then lie in
one slot of a cluster. A batch lives in one partition, chosen by its id, so a script never needs two of them.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

KEY_FORMAT: Final = 1
"""Version of the key layout; kept in Postgres and in every partition's state. Another one is refused at start."""

IDEMPOTENCY_TTL_MS: Final = 24 * 3600 * 1000
"""How long the answer to an Idempotency-Key is kept."""

GROUP: Final = "ledger"
"""Consumer group of the workers on every partition's stream."""


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """Keys that exist once per partition.

    state   hash: epoch (negative while it is fenced off), blessed_epoch (the last that was not), installation (whose
            data these are), key_format, max_backlog, backlog (redemptions not yet in the ledger), clock (highest time
            in ms that a script has used, so that a clock that steps back cannot reopen a window)
    stream  events of all batches of the partition, in the order in which they happened
    """

    state: str
    stream: str
    prefix: str

    @property
    def probe(self) -> str:
        """Written to see whether the server takes writes; means nothing, and expires."""
        return f"{self.prefix}probe"

    def call(self, call_id: str) -> str:
        """Kept result of one script call, so that a repeated call is recognised."""
        return f"{self.prefix}c:{call_id}"


@lru_cache(maxsize=1024)
def partition_keys(partition: int) -> PartitionKeys:
    prefix = f"issuer:{{p{partition:02d}}}:"
    return PartitionKeys(state=f"{prefix}state", stream=f"{prefix}stream", prefix=prefix)


def limit_key(kind: str, subject: str) -> str:
    """The token bucket of a rate limit: the time in µs at which it is full again, gone when it is.

    A tag of its own: a limit counts what goes to all partitions. Nothing but its tokens hangs on it.
    """
    return f"issuer:{{limits}}:{kind}:{subject}"


def partition_of(batch_id: UUID, partitions: int) -> int:
    """The partition of a batch. Fixed for ever: `partitions` never changes after the first start."""
    return zlib.crc32(batch_id.bytes) % partitions


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """Keys of one batch.

    batch         hash: revision, state (open | ended), paused, starts_at_ms, ends_at_ms, limits, rebuilding; of a
                  coupon also coupon (how often it may be used, and its terms: see put_batch.lua).
                  It stays as a tombstone (state=ended) when the batch ends; everything else goes.
    window_prefix followed by the 16 bytes of the customer's id: that customer's redemption times, 13 digits of
                  ms each, oldest first, no longer than the rules need. Ids are binary here, and only here and in
                  `idempotency_prefix`, because these are the keys there are millions of.
    idempotency_prefix followed by 16 bytes of a hash of customer and Idempotency-Key: the answer that was given.
    """

    batch: str
    window_prefix: bytes
    idempotency_prefix: bytes

    def pool(self, client_id: UUID) -> str:
        """Hash of one pool: id, issued, loaded, total."""
        return f"{self.batch}:pool:{client_id}"

    def codes(self, client_id: UUID) -> str:
        """List of the codes of one pool that lie in Redis; the head has seq ``issued + 1``."""
        return f"{self.batch}:codes:{client_id}"


@lru_cache(maxsize=65536)
def batch_keys(partition: int, batch_id: UUID) -> BatchKeys:
    prefix = partition_keys(partition).prefix
    return BatchKeys(
        batch=f"{prefix}b:{batch_id}",
        window_prefix=prefix.encode() + b"w" + batch_id.bytes,
        idempotency_prefix=prefix.encode() + b"i" + batch_id.bytes,
    )


_GLOB_SPECIAL = re.compile(rb"([*?\[\]\\^])")


def batch_patterns(partition: int, batch_id: UUID) -> tuple[bytes, ...]:
    """SCAN patterns that find every key of a batch but its tombstone."""
    keys = batch_keys(partition, batch_id)
    exact = (keys.window_prefix, keys.idempotency_prefix)
    escaped = tuple(_GLOB_SPECIAL.sub(rb"\\\1", prefix) + b"*" for prefix in exact)
    return (f"{keys.batch}:*".encode(), *escaped)


_ANONYMOUS: Final = bytes(17)
"""Longer than an id, and no key begins with NUL: so no customer's key is ever taken for a key of nobody's."""


def idempotency_hash(customer_id: bytes | None, idempotency_key: str) -> bytes:
    """What tells one (customer, Idempotency-Key) of a batch from another: 16 bytes, kept in Redis and in the ledger.

    Without a customer the key alone counts.
    """
    return hashlib.sha256((customer_id or _ANONYMOUS) + idempotency_key.encode()).digest()[:16]

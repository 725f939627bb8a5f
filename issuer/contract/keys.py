"""The only module that spells Redis keys. Contract between the API, the worker and the recovery.

Every key of a partition carries the partition's hash tag, such as ``{p07.1b}``, so that all keys of one script call are
in one slot of a cluster. A batch is in one partition, which follows from its id, so a script never needs two of them.
"""

from __future__ import annotations

import binascii
import hashlib
import itertools
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

KEY_FORMAT: Final = 2
"""Version of the key layout, stored in Postgres and in the state of every partition. A process refuses any other."""

IDEMPOTENCY_TTL_MS: Final = 24 * 3600 * 1000
"""How long Redis keeps the answer to an Idempotency-Key."""

CLUSTER_SLOTS: Final = 16_384

GROUP: Final = "ledger"
"""Consumer group of the workers on the stream of every partition."""


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """Keys that exist once per partition.

    state   hash: epoch (negative while the partition is fenced off), blessed_epoch (the last one that was not
            negative), installation (the owner of the data), key_format, max_backlog, backlog (redemptions not yet in
            the ledger), clock (the highest time in ms that a script has used: a clock that steps back cannot reopen a
            window), serial (facts granted in all), beat (raised twice a second). Data whose serial or beat is below
            what a process has seen are older data that were put back, lineage (the token of
            the last commit in Postgres that was heard of here)
    stream  events of all batches of the partition, in the order of the calls
    """

    state: str
    stream: str
    prefix: str

    @property
    def probe(self) -> str:
        """Key that a health check writes to see whether the server accepts writes. It expires by itself."""
        return f"{self.prefix}probe"

    def call(self, call_id: str) -> str:
        """Key of the kept result of one script call, by which a repeated call is recognised."""
        return f"{self.prefix}c:{call_id}"


def partition_tag(partition: int) -> str:
    """Return the hash tag of a partition. The slots of all tags are spread evenly, however many partitions there are.

    A cluster gives each of its shards a range of slots. The places of the first 2, 4, 8, … partitions divide the slots
    into equal parts (the number of the partition with its bits reversed), so each shard gets its share of partitions.
    """
    place = int(f"{partition:010b}"[::-1], 2) * (CLUSTER_SLOTS >> 10)
    name = b"p%02d." % partition
    crc = binascii.crc_hqx(name, 0)
    suffixes = (b"%x" % number for number in itertools.count())
    near = (suffix for suffix in suffixes if (binascii.crc_hqx(suffix, crc) - place) % CLUSTER_SLOTS < _NEAR)
    return (name + next(near)).decode()


_NEAR: Final = 128
"""A tag's slot is less than this behind its place: found among a few hundred tags, and near enough."""


@lru_cache(maxsize=1024)
def partition_keys(partition: int) -> PartitionKeys:
    prefix = f"issuer:{{{partition_tag(partition)}}}:"
    return PartitionKeys(state=f"{prefix}state", stream=f"{prefix}stream", prefix=prefix)


def limit_key(kind: str, subject: str) -> str:
    """Return the key of a token bucket, which holds the time in µs at which the bucket is full; a full one has no key.

    It has a hash tag of its own: a rate limit counts requests for all partitions. Nothing but tokens depends on it.
    """
    return f"issuer:{{limits}}:{kind}:{subject}"


def partition_of(batch_id: UUID, partitions: int) -> int:
    """Return the partition of a batch. It never changes: `partitions` is fixed at the first start."""
    return zlib.crc32(batch_id.bytes) % partitions


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """Keys of one batch.

    batch         hash: revision, token (of the revision), state (open | ended), paused, starts_at_ms, ends_at_ms,
                  limits, rebuilding; for a coupon also coupon (how often it may be used, and its terms: see
                  put_batch.lua).
                  When the batch ends it stays as a tombstone (state=ended); all other keys are removed.
    window_prefix followed by the 16 bytes of the customer's id: the redemption times of that customer, 13 digits of
                  ms each, oldest first, no more than the rules need. Ids are binary here and in
                  `idempotency_prefix` only, because there may be millions of these keys.
    idempotency_prefix followed by 16 bytes of a hash of customer and Idempotency-Key: the answer to that key.
    """

    batch: str
    window_prefix: bytes
    idempotency_prefix: bytes

    def pool(self, client_id: UUID) -> str:
        """Key of the hash of one pool: id, issued, loaded, total."""
        return f"{self.batch}:pool:{client_id}"

    def codes(self, client_id: UUID) -> str:
        """Key of the list of one pool's loaded codes; the head has seq ``issued + 1``."""
        return f"{self.batch}:codes:{client_id}"


@lru_cache(maxsize=65536)
def batch_keys(partition: int, batch_id: UUID) -> BatchKeys:
    prefix = partition_keys(partition).prefix
    return BatchKeys(
        batch=f"{prefix}b:{batch_id}",
        window_prefix=prefix.encode() + b"w" + batch_id.bytes,
        idempotency_prefix=prefix.encode() + b"i" + batch_id.bytes,
    )


def pool_of_key(key: str) -> tuple[UUID, UUID]:
    """Return batch and client of a key that `BatchKeys.pool` made."""
    rest, _, client_id = key.rpartition(":pool:")
    return UUID(rest[-36:]), UUID(client_id)


_GLOB_SPECIAL = re.compile(rb"([*?\[\]\\^])")


def batch_patterns(partition: int, batch_id: UUID) -> tuple[bytes, ...]:
    """Return SCAN patterns that match every key of a batch except its tombstone."""
    keys = batch_keys(partition, batch_id)
    exact = (keys.window_prefix, keys.idempotency_prefix)
    escaped = tuple(_GLOB_SPECIAL.sub(rb"\\\1", prefix) + b"*" for prefix in exact)
    return (f"{keys.batch}:*".encode(), *escaped)


_ANONYMOUS: Final = bytes(17)
"""Longer than an id, and no Idempotency-Key begins with NUL: the hash of an anonymous request equals no customer's."""


def anonymous_scope(client_id: UUID | None, *, public: bool) -> bytes:
    """Return the scope of Idempotency-Keys in anonymous requests with API keys of one client (None: of none) and kind.

    A key that the public can read must not claim the order numbers that a shop uses as Idempotency-Keys. The scope is
    not that of one API key: a repeat with the shop's next key is still a repeat.
    """
    return (b"p" if public else b"k") + (b"" if client_id is None else client_id.bytes).ljust(16, b"\0")


NO_API_KEY: Final = b"-".ljust(17, b"\0")
"""The scope of anonymous requests without an API key."""


def idempotency_hash(customer_id: bytes | None, idempotency_key: str, scope: bytes = NO_API_KEY) -> bytes:
    """Return the 16 bytes that identify a (customer, Idempotency-Key) within a batch, in Redis and in the ledger.

    `scope`: of the request's API key; it counts for an anonymous request only.
    """
    return hashlib.sha256((customer_id or _ANONYMOUS + scope) + idempotency_key.encode()).digest()[:16]

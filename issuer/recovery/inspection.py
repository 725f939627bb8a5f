"""The inspection of a Redis server: its identity, the state of its partitions and pools, and the verdict on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.pools.counters import COUNTER_FIELDS, counters_from
from issuer.storage.lineage import find_unknown, read_tokens
from issuer.storage.postgres import AnyConnection
from issuer.storage.redis_link import CommandSender, accepted

BATCH_SIZE: Final = 500
READ_TIMEOUT_S: Final = 30.0

PartitionState = Mapping[str, str]
"""A partition's state hash, as `issuer.contract.keys` describes it; empty where there is none."""


class Verdict(StrEnum):
    """What a recovery finds, and how it ends.

    FIRST: nothing was ever issued. RESTART: same data, nothing can be missing. LOSS: something may be missing, until it
    is decided that this is EXACT (everything that was answered is in the ledger) or BOUNDED (codes are quarantined).
    """

    FIRST = "first"
    RESTART = "restart"
    LOSS = "loss"
    EXACT = "exact"
    BOUNDED = "bounded"


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What distinguishes one Redis server from another, and how it keeps its data.

    `durable`: every write is synced to disk before it is answered. `promoted`: it was a replica and may lack the last
    writes of its primary. `evicting`: it may delete keys when memory is short; `evicted_keys`: how often it has.
    """

    run_id: str
    version: str
    address: str
    directory: str
    durable: bool
    role: str
    promoted: bool
    evicting: bool
    evicted_keys: int


@dataclass(slots=True)
class PoolState:
    """One pool as Postgres and Redis see it. The Redis figures are None where Redis has no such pool.

    `accounted` is the highest seq in ledger, quarantine or dead letters, or that is void. `drained`: the batch has
    ended and all its redemptions are in the ledger, so nothing can be missing. `…_after` and `quarantined` are what a
    recovery decided.
    """

    pool_id: int
    batch_id: UUID
    client_id: UUID
    partition: int
    total: int
    accounted: int
    opened: bool
    drained: bool
    of_coupon: bool = False
    issued_before: int | None = None
    loaded_before: int | None = None
    in_list: int = 0
    issued_after: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class BatchStates:
    """The revisions of batches in Redis, compared with what Postgres has confirmed to be there.

    `behind`: how many are missing, or older, as reasons for a loss. `unknown`: tokens of revisions that this Postgres
    never made.
    """

    behind: list[str]
    unknown: list[UUID]


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict with its reasons, in words for an operator."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def parse_info(text: bytes) -> dict[str, str]:
    """Return the fields of a reply of INFO by name."""
    pairs = (line.partition(":") for line in text.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


async def inspect_server(link: CommandSender, address: str) -> ServerIdentity:
    """Return a server's identity. Where CONFIG is forbidden (managed Redis) the server counts as not durable.

    Raises RedisUnavailableError.
    """
    sections = ("server", "replication", "memory", "stats")
    infos = accepted(await link.call([("INFO", section) for section in sections], timeout_s=READ_TIMEOUT_S))
    server, replication, memory, stats = map(parse_info, infos)
    config: dict[str, str] = {}
    names = ("dir", "appendonly", "appendfsync", "no-appendfsync-on-rewrite")
    for name, reply in zip(
        names, await link.call([("CONFIG", "GET", name) for name in names], timeout_s=READ_TIMEOUT_S), strict=True
    ):
        if not isinstance(reply, Exception) and len(reply) == 2:
            config[name] = reply[1].decode()
    return ServerIdentity(
        run_id=server["run_id"],
        version=server.get("valkey_version") or server.get("redis_version", "?"),
        address=address,
        directory=config.get("dir", ""),
        durable=(
            config.get("appendonly") == "yes"
            and config.get("appendfsync") == "always"
            and config.get("no-appendfsync-on-rewrite") == "no"
        ),
        role=replication.get("role", "?"),
        promoted=replication.get("master_replid2", "0").strip("0") != "",
        evicting=memory["maxmemory_policy"] != "noeviction",
        evicted_keys=int(stats["evicted_keys"]),
    )


async def inspect_partitions(link: CommandSender, partitions: int) -> list[PartitionState]:
    """Return the state of every partition, in order. Raises RedisUnavailableError."""
    commands = [("HGETALL", partition_keys(p).state) for p in range(partitions)]
    states: list[PartitionState] = []
    for reply in accepted(await link.call(commands, timeout_s=READ_TIMEOUT_S)):
        values = [value.decode() for value in reply]
        states.append(dict(zip(values[::2], values[1::2], strict=True)))
    return states


def foreign_installations(states: Sequence[PartitionState], installation: UUID) -> list[str]:
    """Return the ids of other installations whose data the partitions hold."""
    found = {state["installation"] for state in states if "installation" in state}
    return sorted(found - {str(installation)})


_POOLS: Final = """
SELECT pools.id, pools.batch_id, pools.client_id, pools.total, pools.opened, batches.drained_at IS NOT NULL AS drained,
       batches.kind = 'coupon' AS of_coupon,
       greatest(
           (SELECT max(seq) FROM ledger WHERE pool_id = pools.id),
           (SELECT max(seq) FROM quarantined WHERE pool_id = pools.id),
           (SELECT max(seq) FROM dead_letters WHERE pool_id = pools.id),
           (SELECT max(seq) FROM void_seqs WHERE pool_id = pools.id),
           0) AS accounted
FROM pools JOIN batches ON batches.id = pools.batch_id
WHERE batches.freed_at IS NULL
ORDER BY pools.id
"""


async def inspect_pools(link: CommandSender, postgres: AnyConnection, partitions: int) -> list[PoolState]:
    """Return every pool whose batch is not freed: what Postgres accounts for, and what this Redis has."""
    pools = [
        PoolState(
            row["id"], row["batch_id"], row["client_id"], partition_of(row["batch_id"], partitions),
            row["total"], row["accounted"], row["opened"], row["drained"], row["of_coupon"],
        )
        for row in await postgres.fetch(_POOLS)
    ]  # fmt: skip
    for at in range(0, len(pools), BATCH_SIZE):
        some = pools[at : at + BATCH_SIZE]
        commands: list[Sequence[str]] = []
        for pool in some:
            names = batch_keys(pool.partition, pool.batch_id)
            commands.append(("HMGET", names.pool(pool.client_id), *COUNTER_FIELDS))
            commands.append(("LLEN", names.codes(pool.client_id)))
        replies = await link.call(commands, timeout_s=READ_TIMEOUT_S)
        for pool, reply, length in zip(some, replies[::2], replies[1::2], strict=True):
            if isinstance(reply, Exception) or isinstance(length, Exception):
                pool.in_list = -1  # a key of another type, judged like a list that contradicts its counters
                continue
            if (counters := counters_from(reply)) is not None:
                pool.issued_before, pool.loaded_before = counters.issued, counters.loaded
            pool.in_list = length
    return pools


_BATCHES: Final = "SELECT id, token, redis_revision FROM batches WHERE redis_revision > 0 ORDER BY id"


async def inspect_batches(link: CommandSender, postgres: AnyConnection, partitions: int) -> BatchStates:
    """Compare the revision of every batch in this Redis with Postgres."""
    rows = await postgres.fetch(_BATCHES)
    behind, others = 0, list[UUID]()
    for at in range(0, len(rows), BATCH_SIZE):
        some = rows[at : at + BATCH_SIZE]
        keys = [batch_keys(partition_of(row["id"], partitions), row["id"]).batch for row in some]
        replies = await link.call([("HMGET", key, "revision", "token") for key in keys], timeout_s=READ_TIMEOUT_S)
        for row, reply in zip(some, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] is None or int(reply[0]) < row["redis_revision"]:
                behind += 1
            else:
                others += [token for token in read_tokens([reply[1] or b""]) if token != row["token"]]
    reasons = [f"{behind} batches are missing or of an earlier revision"] if behind else []
    return BatchStates(reasons, await find_unknown(postgres, others))


def judge(
    now: ServerIdentity,
    before: ServerIdentity | None,
    epoch: int,
    states: Sequence[PartitionState],
    pools: Sequence[PoolState],
    lower: Sequence[str] = (),
    *,
    all_settled: bool = False,
) -> Finding:
    """Decide whether anything that was issued can be missing from these data.

    `before` is the server that was blessed last, under `epoch`; None: none was. `lower`: what is behind what is known
    of it (`issuer.recovery.serials.behind`, `BatchStates.behind`). `all_settled`: no process can know more. Any single
    reason makes it a loss.
    """
    if not any(pool.opened for pool in pools):
        return Finding(Verdict.FIRST)
    reasons = list[str]()
    if before is None:
        reasons.append("codes were issued, but no server is on record")
    else:
        if not (now.durable and before.durable):
            reasons.append("the server does not (or did not) sync every write to its disk (appendfsync always)")
        if (now.address, now.directory) != (before.address, before.directory):
            reasons.append("it is another server than before (address or directory differ)")
        if now.promoted and not all_settled:
            reasons.append("it is a replica that was promoted")
    reasons += [*lower, *contradictions_within(epoch, states, pools)]
    return Finding(Verdict.LOSS if reasons else Verdict.RESTART, tuple(reasons))


def contradictions_within(epoch: int, states: Sequence[PartitionState], pools: Sequence[PoolState]) -> list[str]:
    """Return what the data themselves show to be missing, as reasons for a loss."""
    reasons = []
    stale = [p for p, state in enumerate(states) if int(state.get("blessed_epoch", -1)) < epoch]
    if stale:
        reasons.append(f"{len(stale)} of {len(states)} partitions are missing or from an earlier incarnation")
    missing, behind, contradictory = list[str](), list[str](), list[str]()
    for pool in pools:
        if not pool.opened:
            continue
        name = f"pool {pool.pool_id}"
        if pool.issued_before is None or pool.loaded_before is None:
            missing.append(f"{name} is missing")
        elif pool.issued_before < pool.accounted:
            behind.append(f"{name} has issued {pool.issued_before}, but seq {pool.accounted} is accounted for")
        elif pool.in_list != pool.loaded_before - pool.issued_before:
            contradictory.append(f"{name}: its list contradicts its counters")
    # One example of each kind: a lost server lacks every pool.
    for first, *others in filter(None, (missing, behind, contradictory)):
        reasons.append(f"{first}, and {len(others)} other pools in the same way" if others else first)
    return reasons

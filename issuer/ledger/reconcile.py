"""Reconciliation: per pool, ledger + backlog + quarantined + dead letters + void = issued, each seq in one of them.

Also: per partition, the same for serials (`issuer.ledger.partition_balance`), and no client has a code more than once,
in whatever batches.

It is exact while redemptions continue: `issued` and the stream of a partition are read in one step, then the ledger up
to that `issued`. Events that the worker recorded in between are found in both and counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.contract.events import RedemptionColumns, UndecodableEventError, decode_columns
from issuer.contract.keys import batch_keys, partition_keys
from issuer.ledger import balance_sql as sql
from issuer.ledger.entries import StreamEntry
from issuer.ledger.partition_balance import PartitionBalance, balance_partition, show_difference
from issuer.ledger.repeated_codes import RepeatedCode, find_repeated_codes
from issuer.pools.counters import COUNTER_FIELDS, PoolCounters, counters_from, read_pool_counters
from issuer.storage.postgres import PoolConnection, unavailable_translated
from issuer.storage.redis_link import NotReadyError, redis_errors_translated
from issuer.storage.stores import Stores

MAX_SHOWN: Final = 20
"""Seqs of each kind that are listed."""
MAX_ATTEMPTS: Final = 3


@dataclass(slots=True)
class PoolBalance:
    """The equation of one pool. `missing`, `doubled` and `wrong_code` are the first seqs of their kind."""

    pool_id: int
    batch_id: UUID
    batch_name: str
    client_id: UUID
    issued: int
    ledger: int = 0
    backlog: int = 0
    quarantined: int = 0
    dead_letters: int = 0
    void: int = 0
    missing: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    wrong_code: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def accounted(self) -> int:
        return self.ledger + self.backlog + self.quarantined + self.dead_letters + self.void


@dataclass(slots=True)
class Reconciliation:
    """The equations of all pools and partitions, and the codes that a client has more than once.

    `unreadable` counts stream entries and dead letters whose seqs cannot be decoded.
    """

    pools: list[PoolBalance]
    unreadable: int = 0
    repeated: list[RepeatedCode] = field(default_factory=list)
    partitions: list[PartitionBalance] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        balanced = all(pool.holds for pool in self.pools) and all(found.holds for found in self.partitions)
        return balanced and not self.repeated

    def to_json(self) -> dict[str, Any]:
        pools = [asdict(pool) | {"holds": pool.holds} for pool in self.pools]
        repeated = [code.to_json() for code in self.repeated]
        partitions = [partition.to_json() for partition in self.partitions]
        return {
            "holds": self.holds, "unreadable": self.unreadable, "repeated": repeated, "partitions": partitions,
            "pools": pools,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _PartitionSnapshot:
    """A partition at one instant: `issued` of each pool by its id (None: the pool is not in Redis), and the stream."""

    issued: dict[int, int | None]
    serial: int
    stream: RedemptionColumns
    unreadable: list[StreamEntry]


async def reconcile(stores: Stores, *, batch_id: UUID | None = None) -> Reconciliation:
    """Balance every partition and pool, or the pools of one batch, and look for repeated codes. Change nothing.

    Raises RedisUnavailableError and PostgresUnavailableError.
    """
    async with unavailable_translated():
        rows = await stores.postgres.fetch(sql.POOLS, batch_id)
        letters: int = await stores.postgres.fetchval(sql.UNREADABLE)
    result = Reconciliation([], letters, await find_repeated_codes(stores.postgres, batch_id))
    by_partition: dict[int, list[asyncpg.Record]] = {}
    for partition in range(stores.redis.partitions) if batch_id is None else ():
        by_partition[partition] = []
    for row in rows:
        by_partition.setdefault(row["partition"], []).append(row)
    for partition, some in sorted(by_partition.items()):
        balances, of_partition, unreadable = await _reconcile_partition(stores, partition, some)
        result.pools += balances
        result.unreadable += unreadable
        if batch_id is None:
            result.partitions.append(of_partition)
    result.pools.sort(key=lambda pool: pool.pool_id)
    return result


async def _reconcile_partition(
    stores: Stores, partition: int, rows: Sequence[asyncpg.Record]
) -> tuple[list[PoolBalance], PartitionBalance, int]:
    """Return the equations of these pools and of their partition, and how many entries cannot be read."""
    for _ in range(MAX_ATTEMPTS):
        seen = await _read_snapshot(stores, partition, rows)
        async with (
            unavailable_translated(),
            stores.postgres.acquire() as connection,
            # One snapshot for all queries: otherwise a seq could be counted in two tables while it moves.
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            facts = {row["id"]: row for row in await connection.fetch(sql.FACTS, list(seen.issued))}
            lost = [pool_id for pool_id, issued in seen.issued.items() if issued is None and _is_lost(facts[pool_id])]
            balances = await _balance(connection, rows, facts, seen)
            of_partition = await balance_partition(connection, partition, seen.serial, seen.stream, seen.unreadable)
        # A pool that was opened or freed between the two reads is seen by the next attempt.
        if not lost:
            break
    now = await _read_issued(stores, rows)
    for balance in balances:
        highest = facts[balance.pool_id]["highest"] or 0
        if balance.pool_id in lost:
            balance.problems.append("the pool is missing in Redis")
        elif highest > max(balance.issued, now.get(balance.pool_id) or 0):
            balance.problems.append(f"the ledger has seq {highest}, which was never issued")
    return balances, of_partition, len(seen.unreadable)


def _is_lost(facts: asyncpg.Record) -> bool:
    return bool(facts["opened"]) and facts["final_issued"] is None


def _imported(facts: asyncpg.Record) -> int:
    """Return up to which seq a pool that is not opened is used: its codes were issued by another service."""
    return 0 if facts["opened"] else facts["highest"] or 0


async def _read_snapshot(stores: Stores, partition: int, rows: Sequence[asyncpg.Record]) -> _PartitionSnapshot:
    """Read `issued` of all pools, the serial and the stream in one MULTI."""
    keys = partition_keys(partition)
    pipeline = stores.redis.client.pipeline(transaction=True)
    pipeline.hmget(keys.state, ("epoch", "serial"))
    pipeline.xrange(keys.stream)
    for row in rows:
        pipeline.hmget(batch_keys(partition, row["batch_id"]).pool(row["client_id"]), COUNTER_FIELDS)
    async with redis_errors_translated():
        (epoch, serial), entries, *replies = await pipeline.execute()
    if epoch != str(stores.redis.epoch).encode():
        raise NotReadyError(f"partition {partition} carries another epoch")
    stream, unreadable = RedemptionColumns(), list[StreamEntry]()
    for stream_id, fields in entries:
        try:
            decode_columns(fields, stream)
        except UndecodableEventError:
            unreadable.append(StreamEntry(partition, stream_id.decode(), fields))
    return _PartitionSnapshot(
        _issued(rows, [counters_from(reply) for reply in replies]), int(serial), stream, unreadable
    )


async def _read_issued(stores: Stores, rows: Sequence[asyncpg.Record]) -> dict[int, int | None]:
    return _issued(rows, await read_pool_counters(stores.redis, [(row["batch_id"], row["client_id"]) for row in rows]))


def _issued(rows: Sequence[asyncpg.Record], found: Sequence[PoolCounters | None]) -> dict[int, int | None]:
    """Return `issued` by pool id; None for a pool that Redis does not have."""
    return {row["id"]: None if counters is None else counters.issued for row, counters in zip(rows, found, strict=True)}


async def _balance(
    connection: PoolConnection,
    rows: Sequence[asyncpg.Record],
    facts: dict[int, asyncpg.Record],
    seen: _PartitionSnapshot,
) -> list[PoolBalance]:
    balances: dict[int, PoolBalance] = {}
    for row in rows:
        issued = seen.issued[row["id"]]
        if issued is None or not facts[row["id"]]["opened"]:
            issued = facts[row["id"]]["final_issued"] or _imported(facts[row["id"]])
        balances[row["id"]] = PoolBalance(row["id"], row["batch_id"], row["name"], row["client_id"], issued)
    ids = list(balances)
    bounds = [balance.issued for balance in balances.values()]
    for row in await connection.fetch(sql.COUNTS, ids, bounds, timeout=sql.TIMEOUT_S):
        balance = balances[row["pool_id"]]
        balance.ledger, balance.quarantined = row["ledger"], row["quarantined"]
        balance.dead_letters, balance.void = row["dead_letters"], row["void"]
        if row["overlaps"]:
            balance.problems.append(
                f"{row['overlaps']} seqs are in more than one of ledger, quarantined, dead letters, void"
            )
    for row in await connection.fetch(sql.WRONG_CODES, ids, bounds, MAX_SHOWN, timeout=sql.TIMEOUT_S):
        balances[row["pool_id"]].wrong_code.append(row["seq"])
    in_stream = _in_stream(seen.stream, balances)
    for pool_id, seqs in in_stream.items():
        distinct = set(seqs)
        balances[pool_id].backlog = await connection.fetchval(
            sql.BACKLOG, pool_id, list(distinct), timeout=sql.TIMEOUT_S
        )
        if len(distinct) < len(seqs):
            balances[pool_id].problems.append(f"{len(seqs) - len(distinct)} seqs are in the stream more than once")
    for balance in balances.values():
        await _find_problems(connection, balance, in_stream.get(balance.pool_id, []))
    return list(balances.values())


def _in_stream(stream: RedemptionColumns, balances: dict[int, PoolBalance]) -> dict[int, list[int]]:
    """Return the seqs in the stream by pool, without those that no pool given has issued."""
    found: dict[int, list[int]] = {}
    for pool_id, seq in zip(stream.pool_ids, stream.seqs, strict=True):
        balance = balances.get(pool_id)
        if balance is not None and 0 < seq <= balance.issued:
            found.setdefault(pool_id, []).append(seq)
    return found


async def _find_problems(connection: PoolConnection, balance: PoolBalance, in_stream: Iterable[int]) -> None:
    """List the seqs that are missing or doubled. They are searched only if the counts show that there are any."""
    if balance.wrong_code:
        balance.problems.append("the ledger's code is not the one that was loaded")
    if balance.accounted == balance.issued and not balance.problems:
        # No seq is in two places, and there are as many as were issued: none is missing.
        return
    seqs = list(in_stream)
    question = (balance.pool_id, balance.issued, seqs, MAX_SHOWN)
    rows = await connection.fetch(sql.MISSING, *question, timeout=sql.TIMEOUT_S)
    balance.missing = [row["seq"] for row in rows]
    twice = {seq for seq in seqs if seqs.count(seq) > 1} if len(set(seqs)) < len(seqs) else set()
    rows = await connection.fetch(sql.DOUBLED, balance.pool_id, balance.issued, MAX_SHOWN, timeout=sql.TIMEOUT_S)
    balance.doubled = sorted(twice | {row["seq"] for row in rows})[:MAX_SHOWN]
    if balance.accounted != balance.issued:
        balance.problems.append(show_difference(balance.issued - balance.accounted, "seq"))
    elif balance.missing:
        balance.problems.append("seqs are missing")

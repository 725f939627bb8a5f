"""What each script costs the store: the commands that its header states, however much there is in the store."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final
from uuid import UUID

import pytest
import redis

from issuer.contract import scripts
from issuer.contract.keys import GROUP, limit_key, partition_tag
from issuer.contract.scripts import Script
from tests.conformance.gaps import Gap, servers_only
from tests.support.lua_headers import cost_of
from tests.support.partition import Partition
from tests.support.prologues import recorded
from tests.support.redeeming import CouponState, CouponWish, ScriptLimit, ScriptRequest
from tests.support.script_shop import BATCH, CLIENT, MONTH_MS, OTHER_CLIENT, POOL_ID, new_customer
from tests.support.stores import FakeStore, Store

COMMANDS: Final = f"test:{{{partition_tag(5)}}}:commands"
WRITES: Final = {"XADD", "LPOP", "SET", "MSET", "MSETEX", "HSET"}
LIMITS: Final = (ScriptLimit(2, MONTH_MS),)


class RecordedShop:
    """The shop of the suite on a partition whose scripts record their commands."""

    def __init__(self, shop: Partition) -> None:
        self.plain = shop
        self.partition = Partition(shop.client, shop.number, prologue=recorded(COMMANDS))
        shop.client.delete(COMMANDS)

    def commands(self, act: Callable[[Partition], object]) -> list[str]:
        """Return the names of the commands that the scripts of an act execute, in order."""
        self.plain.client.delete(COMMANDS)
        self.partition.epoch = self.plain.epoch
        act(self.partition)
        names = self.plain.client.execute_command("LRANGE", COMMANDS, 0, -1)
        assert isinstance(names, list)
        return [name.decode() for name in names]


@pytest.fixture
def recording(shop: Partition) -> RecordedShop:
    return RecordedShop(shop)


def end_batch(partition: Partition) -> None:
    partition.put_batch(BATCH, revision=2, state="ended")


def fence(partition: Partition) -> None:
    partition.epoch = -2
    partition.bless()


def fence_ahead(partition: Partition) -> None:
    fence(partition)
    partition.client.hset(partition.keys.state, "clock", 9)


def close_batch(partition: Partition) -> None:
    partition.put_batch(BATCH, LIMITS, revision=2, rebuilding=2)


def redeem_twice(partition: Partition) -> None:
    for _ in range(2):
        partition.redeem_now(new_customer())


def add_consumers(partition: Partition) -> None:
    redeem_twice(partition)
    for name in ("one", "two"):
        partition.client.xgroup_createconsumer(partition.keys.stream, GROUP, name)


def ack_all(partition: Partition) -> object:
    return partition.ack([(entry_id, event.count) for entry_id, event in partition.events()])


def lease(partition: Partition, wanted: int) -> object:
    return partition.client.eval(
        recorded(COMMANDS) + scripts.LEASE_TOKENS.text, 1, limit_key("key", "1"), 1_000, 10_000, 0, 0, wanted
    )


def put_two_windows(partition: Partition) -> object:
    return partition.put_windows(BATCH, 2, [(uuid.uuid4(), [1], 1_000), (uuid.uuid4(), [1], 0)])


def nothing(partition: Partition) -> None:
    """Prepare nothing."""


Act = Callable[[Partition], object]
CASES: Final[list[tuple[Script, str, int, Act, Act]]] = [
    (scripts.ACK_EVENTS, "2 commands, and 2 for each entry", 2 + 2 * 2, redeem_twice, ack_all),
    (scripts.BEAT_PARTITION, "3 commands", 3, nothing, lambda p: p.beat()),
    (scripts.BLESS_PARTITION, "6 commands", 6, nothing, lambda p: p.bless()),
    (scripts.BLESS_PARTITION, "5 for a fence", 5, nothing, fence),
    (scripts.CREATE_GROUP, "4 commands", 4, nothing, lambda p: p.create_group()),
    (scripts.EMPTY_POOL, "5 commands", 5, end_batch, lambda p: p.empty_pool(BATCH, CLIENT)),
    (scripts.LEASE_TOKENS, "3 commands", 3, nothing, lambda p: lease(p, 1)),
    (scripts.LEASE_TOKENS, "2 when nothing is taken", 2, nothing, lambda p: lease(p, 0)),
    (scripts.LOAD_CODES, "6 commands for up to 4,000 codes", 6, nothing,
     lambda p: p.load(BATCH, CLIENT, 11, ["a", "b"], total=12)),
    (scripts.LOAD_CODES, "4 without codes", 4, nothing, lambda p: p.load(BATCH, CLIENT, 11, [], total=12)),
    (scripts.MARK_LINEAGE, "3 commands", 3, nothing, lambda p: p.mark_lineage("token")),
    (scripts.OPEN_POOL, "4 commands", 4, nothing, lambda p: p.open_pool(BATCH, OTHER_CLIENT, 8)),
    (scripts.OPEN_POOL, "6 for a pool that is reset", 6, nothing, lambda p: p.open_pool(BATCH, CLIENT, 7, issued=99)),
    (scripts.PUT_BATCH, "4 commands", 4, nothing, lambda p: p.put_batch(BATCH, revision=2)),
    (scripts.PUT_BATCH, "5 for a coupon", 5, nothing, lambda p: p.put_batch(BATCH, revision=2, coupon=CouponState(3))),
    (scripts.PUT_WINDOWS, "3 commands, and 1 for each window", 3 + 2, close_batch, put_two_windows),
    (scripts.PUT_ANSWERS, "2 commands, and 1 for each answer", 2 + 2, nothing,
     lambda p: p.put_answers([(b"one", b"1", 1_000), (b"two", b"2", 1_000)])),
    (scripts.REBUILD_POOL, "3 commands", 3, fence, lambda p: p.rebuild_pool(BATCH, CLIENT, POOL_ID, issued=0, total=0)),
    (scripts.REMOVE_CONSUMERS, "2 commands, and 1 for each consumer that it removes", 2 + 2, add_consumers,
     lambda p: p.remove_consumers(0)),
    (scripts.RETURN_USES, "2 commands, and 1 or 2 for each window", 2 + 1, nothing,
     lambda p: p.return_uses(BATCH, [(uuid.uuid4(), 1, 0)])),
    (scripts.SET_CLOCK, "3 commands", 3, fence_ahead, lambda p: p.set_clock(5)),
    (scripts.SET_CLOCK, "1 for a clock that is not ahead", 1, fence, lambda p: p.set_clock(5)),
    (scripts.SET_MAX_BACKLOG, "3 commands", 3, nothing, lambda p: p.set_max_backlog(5)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "stated", "count", "prepare", "act"), CASES, ids=[f"{case[0].name}-{case[1]}" for case in CASES]
)
def test_a_script_executes_the_commands_that_its_header_states(
    recording: RecordedShop, script: Script, stated: str, count: int, prepare: Act, act: Act
) -> None:
    prepare(recording.plain)
    assert stated in cost_of(script)
    assert len(recording.commands(act)) == count


def test_every_script_but_redeem_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(scripts.ALL) - {scripts.REDEEM}


def anonymous(client: UUID = CLIENT, batch: UUID = BATCH) -> ScriptRequest:
    return ScriptRequest(batch, client, None)


def test_a_call_of_redeem_executes_the_commands_that_its_header_states(recording: RecordedShop) -> None:
    assert "6 commands, 1 for each batch, 5 for each pool and 2 for each coupon" in cost_of(scripts.REDEEM)
    other, coupon = uuid.UUID(int=9), uuid.UUID(int=10)
    shop = recording.plain
    for batch in (BATCH, other):
        shop.put_batch(batch, revision=2)
        for number, client in enumerate((CLIENT, OTHER_CLIENT)):
            shop.open_pool(batch, client, POOL_ID + number, total=1)
            shop.load(batch, client, 1, ["x"], total=1)
    shop.put_batch(coupon, coupon=CouponState(3))
    shop.open_pool(coupon, CLIENT, 99)
    for batches, pools in ((1, 1), (1, 2), (2, 2)):
        requests = {
            (1, 1): [anonymous()], (1, 2): [anonymous(), anonymous(OTHER_CLIENT)],
            (2, 2): [anonymous(), anonymous(batch=other)],
        }[batches, pools]  # fmt: skip
        commands = recording.commands(lambda p, requests=requests: p.redeem_now(*requests))  # type: ignore[misc]
        assert len(commands) == 6 + batches + 5 * pools, commands
    use = ScriptRequest(coupon, CLIENT, None, wish=CouponWish())
    assert len(recording.commands(lambda p: p.redeem_now(use))) == 6 + 1 + 2


def test_the_event_is_written_first_and_the_codes_are_popped_next(recording: RecordedShop) -> None:
    commands = recording.commands(lambda p: p.redeem_now(new_customer("one"), new_customer("two")))
    writes = [name for name in commands if name in WRITES]
    assert writes[:2] == ["XADD", "LPOP"]
    assert commands[commands.index("XADD") :] == writes, "after the first write nothing is read"


@servers_only(Gap.VERSION)
def test_answers_and_windows_are_written_together_where_the_server_can(recording: RecordedShop, store: Store) -> None:
    """Two answers and two windows: one MSETEX for each kind on Valkey 9.1, four SET on Redis 7.0."""
    commands = recording.commands(lambda p: p.redeem_now(new_customer("one"), new_customer("two")))
    kept_call = ["SET"]
    together = ["MSETEX", "MSETEX"] if store.name == "valkey" else ["SET"] * 4
    assert [name for name in commands if "SET" in name] == [*kept_call, *together, "HSET", "HSET"]


def redeem_many(partition: Partition, batch: UUID, count: int) -> None:
    requests = [ScriptRequest(batch, CLIENT, uuid.uuid4(), "key") for _ in range(count)]
    for at in range(0, count, 100):
        answers = partition.redeem_now(*requests[at : at + 100]).answers
        assert {answer.word for answer in answers} == {"GRANTED"}


def add_batch(partition: Partition, batch: UUID, codes: int) -> None:
    assert partition.put_batch(batch, LIMITS) == ["DONE"]
    assert partition.open_pool(batch, CLIENT, batch.int, total=codes) == ["DONE", "0", "0"]
    texts = [f"code-{seq}" for seq in range(1, codes + 1)]
    assert partition.load(batch, CLIENT, 1, texts, total=codes) == ["DONE", str(codes), "0", "0"]


def test_the_commands_of_a_redemption_depend_neither_on_stock_nor_on_history(
    recording: RecordedShop, store: Store, client: redis.Redis
) -> None:
    many = 300 if isinstance(store, FakeStore) else 3_000
    plain = recording.plain
    small, large = UUID(int=11), UUID(int=12)

    def commands_of_one(batch: UUID) -> list[str]:
        return recording.commands(lambda p: p.redeem_now(ScriptRequest(batch, CLIENT, uuid.uuid4(), "key")))

    add_batch(plain, small, 10)
    alone = commands_of_one(small)
    assert "LPOP" in alone
    add_batch(plain, large, 2 * many)
    assert commands_of_one(large) == alone, "with many codes"
    redeem_many(plain, large, many)
    assert commands_of_one(large) == alone, "with many codes used and many customers"
    for number in range(many // 30):
        add_batch(plain, UUID(int=1_000 + number), 1)
    assert commands_of_one(large) == alone, "with many batches"
    assert commands_of_one(small) == alone

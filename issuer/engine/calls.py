"""Script calls of the hot path: the requests of a call, their encoding for redeem.lua, and its answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from issuer.contract.elements import ATTRIBUTES_MARK
from issuer.contract.keys import IDEMPOTENCY_TTL_MS, BatchKeys, PartitionKeys, partition_keys
from issuer.contract.outcomes import Outcome
from issuer.contract.scripts import REDEEM
from issuer.storage.redis_link import Value

_PAIR = struct.Struct(">HH")
_INDEX = struct.Struct(">H")

BOUND: Final = 0x8000
"""For a caller that sees a batch only where its client has codes; without codes it is an unknown batch."""
USE: Final = 0x4000
"""A coupon is used."""
LOOK: Final = 0x2000
"""A coupon is looked at: could it be used?"""


# None of these classes is frozen: creating a frozen instance takes three times as long, and there is one per request.
@dataclass(slots=True)
class Answer:
    """The answer to one request. `code` for GRANTED and REPLAYED, `retry_at_ms` (Redis' time) for LIMIT_REACHED.

    `at_ms`: of GRANTED and REPLAYED with a code, when it was issued (Redis' time).
    """

    outcome: Outcome
    code: str = ""
    retry_at_ms: int | None = None
    at_ms: int = field(default=0, compare=False)


@dataclass(slots=True)
class AttributedAnswer(Answer):
    """A code that has attributes, GRANTED or REPLAYED. `attributes`: a JSON object."""

    attributes: bytes = b""


@dataclass(slots=True)
class CouponUses:
    """What the script returns once for all uses of a coupon in a call. `terms`: a JSON object of at least one member.

    The consumption id is derived from it and the number of the use (`issuer.coupons.uses`).
    """

    pool_id: int
    call_id: str
    terms: bytes


@dataclass(slots=True)
class UseAnswer(Answer):
    """A use of a coupon, GRANTED or REPLAYED. `number`: of the use among all uses of the coupon."""

    number: int = 0
    uses: CouponUses | None = None


@dataclass(slots=True)
class LookAnswer(Answer):
    """A coupon that could be used (USABLE): how many uses remain, and its terms as a JSON object."""

    remaining: int = 0
    terms: bytes = b""


NOT_READY: Final = Answer(Outcome.NOT_READY)
OVERLOADED: Final = Answer(Outcome.OVERLOADED)
NOT_REPLICATED: Final = Answer(Outcome.NOT_REPLICATED)
_USED: Final = {b"USED": Outcome.GRANTED, b"USED_BEFORE": Outcome.REPLAYED}
_PLAIN: Final = {outcome.value.encode(): Answer(outcome) for outcome in Outcome}


@dataclass(frozen=True, slots=True, eq=False)
class PoolRef:
    """The location of a (batch, client) in Redis. Created once and cached: nothing in it can change.

    `flags`: BOUND, and what is asked there: USE, LOOK, or neither for a code.
    """

    partition: int
    batch: BatchKeys
    pool_key: str
    codes_key: str
    flags: int = 0


def coupon_wish(folded: bytes, product: bytes) -> bytes:
    """Return what the script reads before `who`: the code of the request, folded, and the product or nothing."""
    return b"".join((_INDEX.pack(len(folded)), folded, _INDEX.pack(len(product)), product))


class Slot(Protocol):
    """Where an answer is put: a future, or an object that waits without a task. `set_result` must not raise."""

    def done(self) -> bool:
        """Whether the answer is there, or is not wanted any more."""
        ...

    def set_result(self, answer: Answer, /) -> None: ...


class Waiting:
    """One request in the queue or in a call. `give_up_at`: when it is answered NOT_READY (the event loop's clock)."""

    __slots__ = ("customer", "give_up_at", "key_hash", "pool", "slot", "who")

    def __init__(
        self, pool: PoolRef, customer: bytes | None, who: bytes, key_hash: bytes | None, give_up_at: float, slot: Slot
    ) -> None:
        self.pool = pool
        self.customer = customer
        self.who = who
        self.key_hash = key_hash
        self.give_up_at = give_up_at
        self.slot = slot


class Call:
    """One script call of one partition. Its arguments are encoded once, so that a repeat is the very same call."""

    __slots__ = ("args", "call_id", "deadline_ms", "is_answered", "keys", "partition", "times_sent", "waiting")

    def __init__(self, partition: int, call_id: str, waiting: list[Waiting]) -> None:
        self.partition = partition
        self.call_id = call_id
        self.waiting = waiting
        self.deadline_ms = 0
        self.times_sent = 0
        self.is_answered = False
        # Once: the script compares nothing but the id, so a repeat with other arguments would answer other requests.
        self.keys, self.args = _arguments(partition_keys(partition), call_id, waiting)

    def command(self, epoch: int, serial_floor: int, beat_floor: int) -> list[Value]:
        """Return the command to send now, and count it as sent."""
        self.times_sent += 1
        return [
            "EVALSHA", REDEEM.sha, len(self.keys), *self.keys, epoch, self.call_id, self.deadline_ms, serial_floor,
            beat_floor, *self.args,
        ]  # fmt: skip

    def answer_all(self, answer: Answer) -> None:
        """Answer all requests that have no answer yet."""
        self.is_answered = True
        for waiting in self.waiting:
            if not waiting.slot.done():
                waiting.slot.set_result(answer)


def _arguments(
    partition: PartitionKeys, call_id: str, requests: Sequence[Waiting]
) -> tuple[list[str | bytes], list[Value]]:
    """Return KEYS, and ARGV from the sixth on, as the header of redeem.lua lists them."""
    batches: dict[str, int] = {}
    pools: dict[str, PoolRef] = {}
    pool_indexes: dict[str, int] = {}
    pool_batches = bytearray()
    windows: list[str | bytes] = []
    kept: list[bytes] = []
    indexes = bytearray()
    for request in requests:
        pool = request.pool
        # By name: there may be several references to one pool, and the script refuses a pool that is named twice.
        index = pool_indexes.get(pool.pool_key)
        if index is None:
            pools[pool.pool_key] = pool
            index = pool_indexes[pool.pool_key] = len(pools)
            batch = batches.setdefault(pool.batch.batch, len(batches) + 1)
            pool_batches += _INDEX.pack(batch)
        flagged = index | pool.flags
        if request.customer is None:
            # A key that the script reads anyway stands for "no window": each request has one place in the list.
            windows.append(partition.state)
        else:
            windows.append(pool.batch.window_prefix + request.customer)
        if request.key_hash is None:
            indexes += _PAIR.pack(flagged, 0)
        else:
            kept.append(pool.batch.idempotency_prefix + request.key_hash)
            indexes += _PAIR.pack(flagged, len(kept))
    keys: list[str | bytes] = [
        partition.state, partition.stream, partition.call(call_id), *batches,
        *pools, *(pool.codes_key for pool in pools.values()), *windows, *kept,
    ]  # fmt: skip
    whos = [request.who for request in requests]
    return keys, [IDEMPOTENCY_TTL_MS, bytes(pool_batches), bytes(indexes), *whos]


def parse_answers(joined: bytes, now_ms: int) -> list[Answer]:
    """Return the answers of the script, which ran at `now_ms`, to the requests of a call. Raises ValueError."""
    answers, _, coupons = joined.partition(b"\x1e")
    uses = [_parse_uses(text) for text in coupons.split(b"\x1f")] if coupons else []
    # One look at all answers, not one at each: hardly any have attributes.
    parse = _parse_attributed if ATTRIBUTES_MARK in answers else _parse_answer
    return [parse(text, uses, now_ms) for text in answers.split(b"\x1f")]


def _parse_uses(text: bytes) -> CouponUses:
    pool_id, call_id, _, terms = text.split(b" ", 3)
    return CouponUses(int(pool_id), call_id.decode(), terms)


def _parse_attributed(text: bytes, uses: list[CouponUses], now_ms: int) -> Answer:
    """Parse one answer, whose code may have attributes."""
    text, mark, attributes = text.partition(ATTRIBUTES_MARK)
    answer = _parse_answer(text, uses, now_ms)
    if not mark:
        return answer
    return AttributedAnswer(answer.outcome, answer.code, None, answer.at_ms, attributes)


def _parse_answer(text: bytes, uses: list[CouponUses], now_ms: int) -> Answer:
    """Parse one answer. An unknown status is an error, never a default."""
    if text.startswith(b"GRANTED "):
        return Answer(Outcome.GRANTED, text[8:].decode(), None, now_ms)
    if text.startswith(b"USED"):
        status, which, number, *_ = text.split(b" ")
        return UseAnswer(_USED[status], "", None, 0, int(number), uses[int(which) - 1])
    plain = _PLAIN.get(text)
    if plain is not None:
        return plain
    status, _, rest = text.partition(b" ")
    if status == b"REPLAYED":
        _, _, at_ms, _, _, code = rest.split(b" ", 5)
        return Answer(Outcome.REPLAYED, code.decode(), None, int(at_ms))
    if status == b"USABLE":
        remaining, _, terms = rest.partition(b" ")
        return LookAnswer(Outcome.USABLE, "", None, 0, int(remaining), terms)
    if status == b"LIMIT_REACHED":
        return Answer(Outcome.LIMIT_REACHED, retry_at_ms=int(rest) if rest else None)
    raise ValueError(f"redeem.lua returned {text!r}, which is no known answer")

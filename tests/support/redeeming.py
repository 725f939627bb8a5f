"""What the script tests send and receive: requests, calls and answers of redeem.lua as plain values."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from issuer.contract.events import encode_who

_RS, _US = b"\x1e", b"\x1f"


@dataclass(frozen=True, slots=True)
class ScriptLimit:
    """At most `max` redemptions in any window; `window_ms` 0: at most `max` in all."""

    max: int
    window_ms: int


@dataclass(frozen=True, slots=True)
class CouponState:
    """A coupon as put_batch.lua stores it. `folded` '': the code of a request is not compared."""

    total: int
    number: int = 1
    folded: str = ""
    product: str = ""
    terms: str = '{"discount_fixed":"5.00"}'

    @property
    def packed(self) -> str:
        return "\x1f".join((str(self.total), str(self.number), self.folded, self.product, self.terms))


@dataclass(frozen=True, slots=True)
class CouponWish:
    """What a request wants of a coupon; `look`: only to know whether it could be used."""

    folded: str = "save"
    product: str = ""
    order: str = ""
    look: bool = False


@dataclass(frozen=True, slots=True)
class ScriptRequest:
    """A request for one code, or (`wish`) for one use of a coupon. `customer` None: anonymous, without limits.

    `bound`: the caller may see a batch only where its client has a pool.
    """

    batch: UUID
    client: UUID
    customer: UUID | None
    key: str | None = None
    api_key_id: int = 0
    wish: CouponWish | None = None
    bound: bool = False
    customer_text: str | None = None

    @property
    def key_hash(self) -> bytes | None:
        if self.key is None:
            return None
        customer = self.customer.bytes if self.customer else b""
        return hashlib.sha256(customer + self.key.encode()).digest()[:16]

    @property
    def who(self) -> bytes:
        customer_id = self.customer.bytes if self.customer else None
        who = encode_who(customer_id, self.api_key_id, self.key_hash, self.customer_text)
        if self.wish is None:
            return who
        folded, product, order = (
            len(text.encode()).to_bytes(2) + text.encode()
            for text in (self.wish.folded, self.wish.product, self.wish.order)
        )
        return folded + product + who + order

    @property
    def flags(self) -> int:
        bound = 0x8000 if self.bound else 0
        return bound | (0 if self.wish is None else 0x2000 if self.wish.look else 0x4000)


@dataclass(frozen=True, slots=True)
class ScriptAnswer:
    """The answer to one request: its word, and what follows it (a code, a time in ms, or nothing).

    `fact`: of what is REPLAYED, its pool id, seq, time in ms, epoch and serial.
    """

    word: str
    detail: str = ""
    fact: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The reply of redeem.lua. `raw` is the part that the script keeps for a repeat of the call.

    `serial`: of the first of the `facts`; if there are none, of the next one.
    """

    status: str
    now_ms: int = 0
    answers: tuple[ScriptAnswer, ...] = ()
    data: bytes = b""
    host_ms: int = 0
    raw: bytes = b""
    detail: str = ""
    epoch: int = 0
    serial: int = 0
    facts: int = 0


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One call of redeem.lua, which can be sent again."""

    requests: tuple[ScriptRequest, ...]
    deadline_ms: int
    epoch: int
    call_id: UUID = field(default_factory=uuid.uuid4)
    serial_floor: int = 0
    beat_floor: int = 0


def decode_result(values: list[bytes]) -> Result:
    """Convert the reply of redeem.lua. A consumption has the words of a redemption, and its detail is complete."""
    status = values[0].decode()
    if status not in ("DONE", "REPEATED"):
        return Result(status, detail=b" ".join(values[1:]).decode())
    head, _, answers, uses = values[1].split(_RS, 3)
    now, *numbers = map(int, head.split(b" "))
    host_ms = int(values[3]) if status == "DONE" else 0
    details = [text.decode() for text in uses.split(_US)]
    decoded = tuple(_answer(answer.decode(), details) for answer in answers.split(_US))
    return Result(status, now, decoded, values[2], host_ms, values[1], "", *numbers)


def _answer(text: str, details: Sequence[str]) -> ScriptAnswer:
    word, _, detail = text.partition(" ")
    if word == "REPLAYED":
        *fact, code = detail.split(" ", 5)
        return ScriptAnswer(word, code, tuple(map(int, fact)))
    if word not in ("USED", "USED_BEFORE"):
        return ScriptAnswer(word, detail)
    which, *fact = detail.split(" ")
    pool_id, call_and_terms = details[int(which) - 1].split(" ", 1)
    detail = f"{pool_id} {fact[0]} {call_and_terms}"
    if word == "USED":
        return ScriptAnswer("GRANTED", detail)
    return ScriptAnswer("REPLAYED", detail, (int(pool_id), *map(int, fact)))

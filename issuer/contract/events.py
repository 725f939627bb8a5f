"""Stream events: redeem.lua writes them, the worker reads them. Contract between the API, Lua and the worker.

One stream entry carries all facts (redemptions, uses of coupons) of one script call. Its fields: ``v`` version, ``e``
epoch, ``t`` the script's time in ms, ``c`` the call id (32 hex digits), ``s`` the serial of the first fact, ``n`` the
number of facts, ``d`` the data: for each pool

    ``R <pool id> <first seq> <count>\\n`` then, for each of the `count` redemptions, in seq order,
    length of the element (2 bytes, big-endian), element (a code, perhaps with attributes: `issuer.contract.elements`),
    who (the result of `encode_who`)

and for each coupon

    ``C <pool id> <first number> <count> <number of the terms>\\n`` then, for each of the `count` uses, in order,
    who, length of the order's id (2 bytes, big-endian), that id (UTF-8; the result of `encode_order`)

``who`` is its length (2 bytes, big-endian, without themselves), flags, the customer's id, the number of the API key, 16
bytes of hash if a flag says so, and to its end the text that the caller gave as the customer's id, if it was none.

The facts have the serials s, s + 1, … in the order of the data. Behind the script a use of a coupon is treated as a
redemption whose seq is the number of the use. How the format grows: `docs/decisions/0033-formats.md`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID

from issuer.contract.elements import ATTRIBUTES_MARK, code_of

EVENT_FORMAT: Final = 4
"""The version that this program writes. No release has written an earlier one, so it reads no other."""

_WHO = struct.Struct(">HB16sI")
_WHO_LENGTH: Final = 21
"""The length of `who` when nothing follows the number of the API key."""
_KEY_HASH_LENGTH: Final = 16
_HAS_KEY: Final = 1
_NO_CUSTOMER: Final = 2
_KNOWN_FLAGS: Final = _HAS_KEY | _NO_CUSTOMER
_ANONYMOUS: Final = bytes(16)


MAX_IN_CALL: Final = 128
"""Requests that one script call carries at most, so facts that one entry can have."""


class UndecodableEventError(ValueError):
    """An entry that is not an event of a known version. The worker moves it to the dead letters."""


def is_newer(fields: Mapping[bytes, bytes]) -> bool:
    """Return whether an entry is an event of a later version of this program, which alone can record it."""
    version = fields.get(b"v", b"")
    return version.isdigit() and len(version) < 7 and int(version) > EVENT_FORMAT


class NewerEventError(UndecodableEventError):
    """An event or a receipt that a later version of this program has written, which alone can read it."""


def check_version(version: int) -> None:
    """Raise NewerEventError or UndecodableEventError unless events and receipts of this version can be read."""
    if version > EVENT_FORMAT:
        raise NewerEventError(f"event version {version} is newer than version {EVENT_FORMAT}, which this program knows")
    if version != EVENT_FORMAT:
        raise UndecodableEventError(f"event version {version} is not known")


def encode_who(
    customer_id: bytes | None, api_key_id: int, key_hash: bytes | None, customer_text: str | None = None
) -> bytes:
    """Encode who redeemed: the customer's 16 bytes, number of the API key (0: none), hash of the Idempotency-Key.

    `customer_text`: what the caller gave as the customer's id; None: a UUID.
    """
    flags = (_HAS_KEY if key_hash else 0) | (0 if customer_id else _NO_CUSTOMER)
    tail = key_hash or b""
    if customer_text is not None:
        tail += customer_text.encode()
    return _WHO.pack(_WHO_LENGTH + len(tail), flags, customer_id or _ANONYMOUS, api_key_id) + tail


def encode_order(order_id: str) -> bytes:
    """Encode what follows `who` in a consumption; '': no order."""
    text = order_id.encode()
    return len(text).to_bytes(2, "big") + text


@dataclass(frozen=True, slots=True)
class Redemption:
    """One redemption or one use of a coupon, as an event has it. `redeemed_at_ms` is the time of Redis.

    `call_id` None: the receipt of a replay does not know it. `serial` 0: unknown.
    `terms`: 0 for a redemption; for a use the number of the terms that applied to it (and `code` is '').
    `customer_text`: what the caller gave as the customer's id; None: a UUID, or nothing.
    """

    pool_id: int
    seq: int
    code: str
    customer_id: UUID | None
    redeemed_at_ms: int
    call_id: UUID | None
    key_hash: bytes | None
    api_key_id: int
    epoch: int
    serial: int
    customer_text: str | None = None
    terms: int = 0
    order_id: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One stream entry, decoded."""

    epoch: int
    serial: int
    count: int
    redemptions: list[Redemption] = field(default_factory=list)


@dataclass(slots=True)
class RedemptionColumns:
    """Redemptions by column, as the INSERT of the ledger takes them: every list has one item for each redemption.

    `customer_ids` and `call_ids` are UUIDs of the driver's class, which is constructed and sent in a fraction of the
    time.
    """

    pool_ids: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    customer_ids: list[UUID | None] = field(default_factory=list)
    at_ms: list[int] = field(default_factory=list)
    call_ids: list[UUID | None] = field(default_factory=list)
    key_hashes: list[bytes | None] = field(default_factory=list)
    api_key_ids: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    serials: list[int] = field(default_factory=list)
    customer_texts: list[str | None] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)
    order_ids: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pool_ids)

    def columns(self) -> tuple[list[Any], ...]:
        """Return the lists in the order of the fields."""
        return (
            self.pool_ids, self.seqs, self.codes, self.customer_ids, self.at_ms, self.call_ids, self.key_hashes,
            self.api_key_ids, self.epochs, self.serials, self.customer_texts, self.terms, self.order_ids,
        )  # fmt: skip

    def append(self, redemption: Redemption) -> None:
        self.pool_ids.append(redemption.pool_id)
        self.seqs.append(redemption.seq)
        self.codes.append(redemption.code)
        self.customer_ids.append(redemption.customer_id)
        self.at_ms.append(redemption.redeemed_at_ms)
        self.call_ids.append(redemption.call_id)
        self.key_hashes.append(redemption.key_hash)
        self.api_key_ids.append(redemption.api_key_id)
        self.epochs.append(redemption.epoch)
        self.serials.append(redemption.serial)
        self.customer_texts.append(redemption.customer_text)
        self.terms.append(redemption.terms)
        self.order_ids.append(redemption.order_id)

    def take(self, indexes: Iterable[int]) -> RedemptionColumns:
        """Return the redemptions at these positions, in this order."""
        positions = list(indexes)
        return RedemptionColumns(*([column[i] for i in positions] for column in self.columns()))

    def slice(self, start: int, stop: int) -> RedemptionColumns:
        return RedemptionColumns(*(column[start:stop] for column in self.columns()))

    def redemptions(self) -> Iterator[Redemption]:
        for pool_id, seq, code, customer, at_ms, call_id, *rest in zip(*self.columns(), strict=True):
            yield Redemption(pool_id, seq, code, _uuid(customer), at_ms, _uuid(call_id), *rest)


def _uuid(value: UUID | None) -> UUID | None:
    """The standard library's UUID: the driver's own is another class."""
    return None if value is None else UUID(bytes=value.bytes)


def decode_event(fields: Mapping[bytes, bytes]) -> Event:
    """Decode an entry. Raises UndecodableEventError and nothing else, whatever the fields hold."""
    columns = RedemptionColumns()
    epoch, count = decode_columns(fields, columns)
    return Event(epoch, int(fields[b"s"]), count, list(columns.redemptions()))


def decode_columns(fields: Mapping[bytes, bytes], into: RedemptionColumns) -> tuple[int, int]:
    """Append the redemptions of an entry to `into`; return the entry's epoch and the number of its redemptions.

    Raises UndecodableEventError and nothing else, whatever the fields hold; `into` is then unchanged.
    """
    before = len(into)
    try:
        check_version(int(fields[b"v"]))
        epoch, at_ms, serial, count = (int(fields[name]) for name in (b"e", b"t", b"s", b"n"))
        decode_data(fields[b"d"], into, epoch, at_ms, DriverUUID(fields[b"c"].decode()), serial)
        found = len(into) - before
        if found != count:
            raise UndecodableEventError(f"{found} redemptions where {count} were announced")
    except (KeyError, ValueError, IndexError, struct.error) as error:
        for column in into.columns():
            del column[before:]
        if isinstance(error, UndecodableEventError):
            raise
        raise UndecodableEventError(f"{type(error).__name__}: {error}") from error
    return epoch, count


def add_spans(data: bytes, facts: int, into: list[tuple[int, int, int]]) -> None:
    """Append pool id, first and last seq of each chunk of the field ``d`` to `into`. `facts`: how many `data` have.

    It decodes no fact, and looks at none in the last chunk. Raises ValueError or IndexError when `data` are malformed.
    """
    at = 0
    while True:
        newline = data.index(b"\n", at)
        _, pool, first, count, *_ = data[at:newline].split(b" ")
        first_seq, chunk = int(first), int(count)
        into.append((int(pool), first_seq, first_seq + chunk - 1))
        facts -= chunk
        if facts <= 0:
            return
        at = newline + 1
        # A redemption is two texts with their lengths (element, who), and so is a use (who, order).
        for _ in range(2 * chunk):
            at += 2 + (data[at] << 8 | data[at + 1])


def decode_data(
    data: bytes, into: RedemptionColumns, epoch: int, at_ms: int, call_id: UUID | None, serial: int
) -> None:
    """Append the facts of the field ``d`` to `into`; `call_id` of the driver's class.

    Raises ValueError, IndexError or struct.error when `data` are cut or malformed; `into` has a part of them then.
    """
    at, end = 0, len(data)
    # Looked for once, not in each redemption: hardly any event has attributes. Other bytes may be the mark, too.
    may_have_attributes = ATTRIBUTES_MARK in data
    while at < end:
        newline = data.index(b"\n", at)
        kind, pool, first, count, *more = data[at:newline].split(b" ")
        terms = int(more[0]) if kind == b"C" and len(more) == 1 else 0
        if (kind != b"R" or more) and terms < 1:
            raise ValueError(f"unknown kind {kind!r}")
        pool_id, first_seq, pool_count = int(pool), int(first), int(count)
        at = newline + 1
        # No redemption is smaller than one without a code: a forged count must not make the worker allocate.
        if not 0 < pool_count <= (end - at) // (_WHO_LENGTH + 4):
            raise ValueError(f"{pool_count} redemptions in {end - at} bytes")
        if terms:
            at = _decode_uses(data, at, pool_count, into)
            into.codes.extend([""] * pool_count)
        else:
            at = _decode_codes(data, at, pool_count, into)
            if may_have_attributes:
                into.codes[-pool_count:] = map(code_of, into.codes[-pool_count:])
            into.order_ids.extend([""] * pool_count)
        into.terms.extend([terms] * pool_count)
        into.pool_ids.extend([pool_id] * pool_count)
        into.seqs.extend(range(first_seq, first_seq + pool_count))
        into.at_ms.extend([at_ms] * pool_count)
        into.call_ids.extend([call_id] * pool_count)
        into.epochs.extend([epoch] * pool_count)
        into.serials.extend(range(serial, serial + pool_count))
        serial += pool_count


def _decode_codes(data: bytes, at: int, count: int, into: RedemptionColumns) -> int:
    """Decode the redemptions of one pool; return the position behind them."""
    unpack, end = _WHO.unpack_from, len(data)
    add_code, add_customer, add_text = into.codes.append, into.customer_ids.append, into.customer_texts.append
    add_key_hash, add_api_key = into.key_hashes.append, into.api_key_ids.append
    for _ in range(count):
        code_end = at + 2 + ((data[at] << 8) | data[at + 1])
        length, flags, customer, api_key_id = unpack(data, code_end)
        add_code(data[at + 2 : code_end].decode())
        tail = code_end + 2 + _WHO_LENGTH
        hash_end = tail + _KEY_HASH_LENGTH if flags & _HAS_KEY else tail
        at = code_end + 2 + length
        if not hash_end <= at <= end or flags > _KNOWN_FLAGS:
            raise ValueError("cut in the middle of a redemption, or unknown flags")
        add_customer(None if flags & _NO_CUSTOMER else DriverUUID(customer))
        add_key_hash(data[tail:hash_end] if flags & _HAS_KEY else None)
        add_api_key(api_key_id)
        add_text(None if hash_end == at else data[hash_end:at].decode())
    return at


def _decode_uses(data: bytes, at: int, count: int, into: RedemptionColumns) -> int:
    """Decode the uses of one coupon; return the position behind them."""
    unpack, end = _WHO.unpack_from, len(data)
    add_order, add_customer, add_text = into.order_ids.append, into.customer_ids.append, into.customer_texts.append
    add_key_hash, add_api_key = into.key_hashes.append, into.api_key_ids.append
    for _ in range(count):
        length, flags, customer, api_key_id = unpack(data, at)
        tail, who_end = at + 2 + _WHO_LENGTH, at + 2 + length
        hash_end = tail + _KEY_HASH_LENGTH if flags & _HAS_KEY else tail
        at = who_end + 2 + ((data[who_end] << 8) | data[who_end + 1])
        if hash_end > who_end or at > end or flags > _KNOWN_FLAGS:
            raise ValueError("cut in the middle of a use, or unknown flags")
        add_order(data[who_end + 2 : at].decode())
        add_customer(None if flags & _NO_CUSTOMER else DriverUUID(customer))
        add_key_hash(data[tail:hash_end] if flags & _HAS_KEY else None)
        add_api_key(api_key_id)
        add_text(None if hash_end == who_end else data[hash_end:who_end].decode())
    return at

"""Stream events: what the redeem script writes and the worker reads. Contract between the API, Lua and the worker.

One stream entry carries all redemptions of one script call. Its fields: ``v`` version, ``e`` epoch, ``t`` the
script's time in ms, ``c`` the call id (32 hex digits), ``n`` the number of redemptions, ``d`` the data: for each pool

    ``R <pool id> <first seq> <count>\\n`` then, for each of the `count` redemptions, in seq order,
    code length (2 bytes, big-endian), code (UTF-8), who (as `encode_who` made it)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

EVENT_FORMAT: Final = 1
"""Newest version that this program writes; it reads this one and those before it."""

_WHO = struct.Struct(">BB16sI")
_HAS_KEY: Final = 1
_NO_CUSTOMER: Final = 2
_NOBODY: Final = bytes(16)


class UndecodableEventError(ValueError):
    """An entry that is not an event of a version that we know. It belongs into the dead letters."""


def encode_who(customer_id: bytes | None, api_key_id: int, key_hash: bytes | None) -> bytes:
    """Who redeemed: the customer's 16 bytes, the number of the API key (0: none) and the hash of the Idempotency-Key."""
    flags = (_HAS_KEY if key_hash else 0) | (0 if customer_id else _NO_CUSTOMER)
    tail = key_hash or b""
    return _WHO.pack(21 + len(tail), flags, customer_id or _NOBODY, api_key_id) + tail


@dataclass(frozen=True, slots=True)
class Redemption:
    """One redemption as an event tells it. `redeemed_at_ms` is Redis' time."""

    pool_id: int
    seq: int
    code: str
    customer_id: UUID | None
    redeemed_at_ms: int
    call_id: UUID
    key_hash: bytes | None
    api_key_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Event:
    """One stream entry, decoded."""

    epoch: int
    count: int
    redemptions: list[Redemption] = field(default_factory=list)


def decode_event(fields: Mapping[bytes, bytes]) -> Event:
    """Decodes an entry. Raises UndecodableEventError and nothing else, whatever the fields hold."""
    try:
        version = int(fields[b"v"])
        if version != EVENT_FORMAT:
            raise UndecodableEventError(f"event version {version} is not known")
        epoch, at_ms, count = int(fields[b"e"]), int(fields[b"t"]), int(fields[b"n"])
        redemptions = decode_redemptions(fields[b"d"], epoch=epoch, at_ms=at_ms, call_id=UUID(hex=fields[b"c"].decode()))
    except UndecodableEventError:
        raise
    except (KeyError, ValueError, IndexError, struct.error) as error:
        raise UndecodableEventError(f"{type(error).__name__}: {error}") from error
    if len(redemptions) != count:
        raise UndecodableEventError(f"{len(redemptions)} redemptions where {count} were announced")
    return Event(epoch=epoch, count=count, redemptions=redemptions)


def decode_redemptions(data: bytes, *, epoch: int, at_ms: int, call_id: UUID) -> list[Redemption]:
    """Decodes the field ``d``. Raises ValueError, IndexError or struct.error when it is cut or malformed."""
    found: list[Redemption] = []
    at, end = 0, len(data)
    while at < end:
        newline = data.index(b"\n", at)
        kind, pool, first, count = data[at:newline].split(b" ")
        if kind != b"R":
            raise ValueError(f"unknown kind {kind!r}")
        pool_id, first_seq = int(pool), int(first)
        at = newline + 1
        for seq in range(first_seq, first_seq + int(count)):
            size = (data[at] << 8) | data[at + 1]
            code = data[at + 2 : at + 2 + size].decode()
            at += 2 + size
            length, flags, customer, api_key_id = _WHO.unpack_from(data, at)
            key_hash = data[at + 22 : at + 1 + length] if flags & _HAS_KEY else None
            at += 1 + length
            if at > end:
                raise ValueError("cut in the middle of a redemption")
            customer_id = None if flags & _NO_CUSTOMER else UUID(bytes=customer)
            found.append(
                Redemption(pool_id, seq, code, customer_id, at_ms, call_id, key_hash, api_key_id, epoch)
            )
    return found

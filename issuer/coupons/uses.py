"""What redeem.lua says of a use of a coupon, and the id by which the caller knows it afterwards."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

_TAG: Final = 8
_LENGTH: Final = 24
_NUMBERS_BITS: Final = 128
_TWICE: Final = 2**64 + 1
_NUMBER: Final = 2**64 - 1
_ID: Final = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class UseName:
    """A consumption id, taken apart. `tag` tells whether somebody made the numbers up."""

    pool_id: int
    seq: int
    tag: bytes

    def is_of(self, call_id: str) -> bool:
        """Whether the use of these numbers was made by the script call of this id (32 hex digits)."""
        return hmac.compare_digest(self.tag, _tag(self.pool_id, self.seq, call_id))


def consumption_id(pool_id: int, seq: int, call_id: str) -> str:
    """32 characters that are safe in a path. They cannot be guessed: the id of the script call is random."""
    tag = int.from_bytes(_tag(pool_id, seq, call_id), "big")
    # Under the tag the numbers are not seen at a glance: nobody is to build on them.
    numbers = (pool_id << 64 | seq) ^ tag * _TWICE
    return base64.urlsafe_b64encode((tag << _NUMBERS_BITS | numbers).to_bytes(_LENGTH, "big")).decode()


def parse_consumption_id(text: str) -> UseName | None:
    """None: nothing that `consumption_id` makes."""
    if _ID.fullmatch(text) is None:
        return None
    raw = base64.urlsafe_b64decode(text)
    numbers = int.from_bytes(raw[_TAG:], "big") ^ int.from_bytes(raw[:_TAG], "big") * _TWICE
    pool_id, seq = numbers >> 64, numbers & _NUMBER
    return UseName(pool_id, seq, raw[:_TAG]) if max(pool_id, seq) < 2**63 else None


def read_use(text: str) -> tuple[str, str]:
    """The consumption id and the terms (a JSON object), from the `code` of an answer to a use."""
    pool_id, seq, call_id, terms = text.split(" ", 3)
    return consumption_id(int(pool_id), int(seq), call_id), terms


def read_look(text: str) -> tuple[int, str]:
    """How many uses are left, and the terms (a JSON object), from the `code` of the answer USABLE."""
    left, _, terms = text.partition(" ")
    return int(left), terms


def _tag(pool_id: int, seq: int, call_id: str) -> bytes:
    return hashlib.blake2b(f"{pool_id} {seq} {call_id}".encode(), digest_size=_TAG).digest()

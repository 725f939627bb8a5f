"""What redeem.lua says of a use of a coupon, and the id by which the caller knows it afterwards."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
from dataclasses import dataclass
from typing import Final

_NUMBERS: Final = struct.Struct(">QQ")
_TAG: Final = 8
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
    tag = _tag(pool_id, seq, call_id)
    return base64.urlsafe_b64encode(tag + _veiled(_NUMBERS.pack(pool_id, seq), tag)).decode()


def parse_consumption_id(text: str) -> UseName | None:
    """None: nothing that `consumption_id` makes."""
    if _ID.fullmatch(text) is None:
        return None
    raw = base64.urlsafe_b64decode(text)
    tag = raw[:_TAG]
    pool_id, seq = _NUMBERS.unpack(_veiled(raw[_TAG:], tag))
    return UseName(pool_id, seq, tag) if max(pool_id, seq) < 2**63 else None


def read_use(text: str) -> tuple[str, str]:
    """The consumption id and the terms (a JSON object), from the `code` of an answer to a use."""
    pool_id, seq, call_id, terms = text.split(" ", 3)
    return consumption_id(int(pool_id), int(seq), call_id), terms


def read_look(text: str) -> tuple[int, str]:
    """How many uses are left, and the terms (a JSON object), from the `code` of the answer USABLE."""
    left, _, terms = text.partition(" ")
    return int(left), terms


def _tag(pool_id: int, seq: int, call_id: str) -> bytes:
    return hashlib.blake2b(b"%d %d %b" % (pool_id, seq, call_id.encode()), digest_size=_TAG).digest()


def _veiled(numbers: bytes, tag: bytes) -> bytes:
    """The numbers so that nobody builds on them; the same again brings them back."""
    veil = hashlib.blake2b(tag, digest_size=_NUMBERS.size).digest()
    return (int.from_bytes(numbers) ^ int.from_bytes(veil)).to_bytes(_NUMBERS.size)

"""What redeem.lua says of a use of a coupon, and the id by which the caller knows it afterwards."""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_ID: Final = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)
_RAW: Final = struct.Struct(">QQQ")
_TAGS: Final = struct.Struct(">8Q")
"""Eight uses that are neighbours are a block; the tags of a block come of one hash."""
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_MAX_NUMBER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ConsumptionId:
    """The parts of a consumption id. `tag` proves that the numbers are not forged."""

    pool_id: int
    seq: int
    tag: int

    def is_of(self, call_id: str) -> bool:
        """Whether the use of these numbers was made by the script call of this id (32 hex digits)."""
        right = _tags(self.pool_id, self.seq >> 3, call_id)[self.seq & 7]
        return hmac.compare_digest(self.tag.to_bytes(8), right.to_bytes(8))


def consumption_id(pool_id: int, seq: int, call_id: str) -> str:
    """32 characters that are safe in a path. They cannot be predicted: the id of the script call is random."""
    return _encode(pool_id, seq, _tags(pool_id, seq >> 3, call_id)).decode()


def _encode(pool_id: int, seq: int, tags: Sequence[int]) -> bytes:
    tag = tags[seq & 7]
    # The tag masks the numbers, so that no client comes to depend on them.
    return b2a_base64(_RAW.pack(tag, pool_id ^ tag, seq ^ tag), newline=False).translate(_URL_SAFE)


def parse_consumption_id(text: str) -> ConsumptionId | None:
    """None: nothing that `consumption_id` makes."""
    if _ID.fullmatch(text) is None:
        return None
    tag, pool_id, seq = _RAW.unpack(urlsafe_b64decode(text))
    name = ConsumptionId(pool_id ^ tag, seq ^ tag, tag)
    return name if 0 < name.pool_id <= _MAX_NUMBER and 0 < name.seq <= _MAX_NUMBER else None


def read_use(number: int, said: bytes) -> tuple[bytes, bytes]:
    """The consumption id and the terms (a JSON object), from the `number` and the `use` of an answer."""
    pool_id, tags, terms = _read_said(said, number >> 3)
    return _encode(pool_id, number, tags), terms


def read_look(text: str) -> tuple[int, str]:
    """How many uses are left, and the terms (a JSON object), from the `code` of the answer USABLE."""
    left, _, terms = text.partition(" ")
    return int(left), terms


@lru_cache(maxsize=1_024)
def _read_said(said: bytes, block: int) -> tuple[int, Sequence[int], bytes]:
    """The pool, the tags of the uses of a block, and the terms: the same for neighbours, and asked for one by one."""
    pool_id, call_id, terms = said.split(b" ", 2)
    return int(pool_id), _tags(int(pool_id), block, call_id.decode()), terms


def _tags(pool_id: int, block: int, call_id: str) -> tuple[int, ...]:
    tags: tuple[int, ...] = _TAGS.unpack(hashlib.blake2b(f"{pool_id} {block} {call_id}".encode()).digest())
    return tags

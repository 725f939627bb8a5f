"""The id of a consumption, by which the caller names it afterwards."""

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
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from issuer.engine.calls import CouponUses

_ID: Final = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)
_RAW: Final = struct.Struct(">QQQ")
_TAGS: Final = struct.Struct(">8Q")
"""The tags of eight uses with neighbouring numbers, a block, are one hash."""
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_MAX_NUMBER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ConsumptionId:
    """The parts of a consumption id. `tag` proves that the numbers are not forged."""

    pool_id: int
    seq: int
    tag: int

    def is_of(self, call_id: str) -> bool:
        """Whether the script call with this id (32 hex digits) granted the use with these numbers."""
        right = _tags(self.pool_id, self.seq >> 3, call_id)[self.seq & 7]
        return hmac.compare_digest(self.tag.to_bytes(8), right.to_bytes(8))


def consumption_id(pool_id: int, seq: int, call_id: str) -> str:
    """Return 32 characters that are safe in a path. They cannot be predicted: the id of the script call is random."""
    return _encode(pool_id, seq, _tags(pool_id, seq >> 3, call_id)).decode()


def _encode(pool_id: int, seq: int, tags: Sequence[int]) -> bytes:
    tag = tags[seq & 7]
    # The tag masks the numbers, so that no client comes to depend on them.
    return b2a_base64(_RAW.pack(tag, pool_id ^ tag, seq ^ tag), newline=False).translate(_URL_SAFE)


def parse_consumption_id(text: str) -> ConsumptionId | None:
    """Return the parts of a consumption id; None for a text that is not one."""
    if _ID.fullmatch(text) is None:
        return None
    tag, pool_id, seq = _RAW.unpack(urlsafe_b64decode(text))
    name = ConsumptionId(pool_id ^ tag, seq ^ tag, tag)
    return name if 0 < name.pool_id <= _MAX_NUMBER and 0 < name.seq <= _MAX_NUMBER else None


def use_id(uses: CouponUses, number: int) -> bytes:
    """Return the consumption id of the use with this number."""
    return _encode(uses.pool_id, number, _cached_tags(uses.pool_id, number >> 3, uses.call_id))


def _tags(pool_id: int, block: int, call_id: str) -> tuple[int, ...]:
    tags: tuple[int, ...] = _TAGS.unpack(hashlib.blake2b(f"{pool_id} {block} {call_id}".encode()).digest())
    return tags


_cached_tags = lru_cache(maxsize=1_024)(_tags)
"""For the uses that one call grants: they have neighbouring numbers and are answered one after the other."""

"""Ids that callers give: of clients, of customers and of batches. Every route, file and command reads them here.

An id is a UUID, in any of the forms of `parse_uuid`, or a text of the caller's own, such as `anna@example.org` or
`band-42`. A text stands for one UUID per installation, so it names the same person wherever it is given.
"""

from __future__ import annotations

import hashlib
import re
import struct
import unicodedata
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final, NamedTuple
from uuid import UUID

from issuer.names import first_unseen, text_problem, trimmed

MAX_ID: Final = 128
"""Characters of an id that is a text."""

MAX_READ: Final = 4 * MAX_ID
"""Characters that are read: invisible ones at the ends are not part of an id, but reading them takes time."""
_HYPHENATED: Final = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_match_uuid: Final = re.compile(
    rf"[0-9a-fA-F]{{32}}|\{{{_HYPHENATED}\}}|[uU][rR][nN]:[uU][uU][iI][dD]:{_HYPHENATED}"
).fullmatch
"""Matches the forms with other lengths than the common one."""
_OTHER_LENGTHS: Final = (32, 38, 45)
_HALVES: Final = struct.Struct(">QQ")
"""The two halves of a UUID."""


class InvalidIdError(ValueError):
    """The text cannot be an id. The message says why, for the caller."""


class Identity(NamedTuple):
    """An id: the 16 bytes of its UUID, and the text it was given as; None: it was given as a UUID."""

    packed: bytes
    text: str | None

    @property
    def uuid(self) -> UUID:
        return UUID(bytes=self.packed)


_identity: Final[Callable[[tuple[bytes, str | None]], Identity]] = partial(tuple.__new__, Identity)
"""Create an Identity in a third of the time: the constructor of a NamedTuple is a Python function."""


def parse_uuid(text: str) -> UUID | None:
    """Return the UUID; None: the text is none.

    The forms, each in any case: with hyphens, 32 hexadecimal digits, in braces, as a URN (RFC 9562).
    """
    packed = _packed_uuid(text)
    return None if packed is None else UUID(bytes=packed)


def id_text(text: str) -> str:
    """Return an id that is a text as it is stored: in NFC, without white space and unseen characters at its ends.

    Its case is kept. Raises InvalidIdError.
    """
    if len(text) > MAX_READ:
        raise InvalidIdError(f"an id must have at most {MAX_ID} characters")
    text = trimmed(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text:
        raise InvalidIdError("an id must not be empty")
    if len(text) > MAX_ID:
        raise InvalidIdError(f"an id must have at most {MAX_ID} characters")
    # The common case, as `id_text` would return it.
    if text.isascii() and text.isprintable():
        return text
    if text_problem(text) is not None:
        raise InvalidIdError("an id must not contain control characters")
    unseen = first_unseen(text)
    if unseen is not None:
        raise InvalidIdError(f"an id must not contain invisible characters, such as {unseen}")
    return text


def id_of(text: str, installation: UUID) -> Identity:
    """Return the id that a caller gave. A text becomes UUIDv5 of the installation and the text. Raises InvalidIdError.

    Every redemption comes here, so nothing is built that is not needed.
    """
    packed = _packed_uuid(text)
    if packed is not None:
        return _identity((packed, None))
    # The common case, as `id_text` would return it.
    if text.isascii() and text.isprintable() and 0 < len(text) <= MAX_ID and text[0] != " " != text[-1]:
        return _identity((_derive(text, installation), text))
    kept = id_text(text)
    if kept != text:
        packed = _packed_uuid(kept)
        if packed is not None:
            return _identity((packed, None))
    return _identity((_derive(kept, installation), kept))


def redemption_id(batch_id: UUID | str, code: str, installation: UUID) -> UUID:
    """Return the id of a redemption. A code is issued once in its batch, so both name it, in any list and at any time.

    `batch_id`: the UUID, or its text as `str` writes it.
    """
    return UUID(bytes=_derive(f"{batch_id} {code}", installation))


def _derive(text: str, installation: UUID) -> bytes:
    """Return UUIDv5 of the installation and the text. `uuid.uuid5` takes three times as long."""
    hashed = _hashed(installation).copy()
    hashed.update(text.encode())
    high, low = _HALVES.unpack_from(hashed.digest())
    # Version and variant.
    return _HALVES.pack(high & ~0xF000 | 0x5000, low & ~(0xC << 60) | 0x8 << 60)


@lru_cache(maxsize=8)
def _hashed(installation: UUID) -> hashlib._Hash:
    """Return the hash with which every id of the installation begins: to copy it is faster than to begin again."""
    return hashlib.sha1(installation.bytes, usedforsecurity=False)


def _packed_uuid(text: str) -> bytes | None:
    size = len(text)
    if size == 36:
        # The common form. `fromhex` skips white space and `replace` any hyphen, and either makes it too short.
        if text[8] == text[13] == text[18] == text[23] == "-":
            try:
                packed = bytes.fromhex(text.replace("-", ""))
            except ValueError:
                return None
            if len(packed) == 16:
                return packed
        return None
    if size not in _OTHER_LENGTHS or _match_uuid(text) is None:
        return None
    return bytes.fromhex(text.removesuffix("}")[-36:].lstrip("{").replace("-", ""))

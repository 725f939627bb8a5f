"""Secrets that must be readable again, such as the secret of a shop: encrypted in Postgres with ISSUER_SECRET_KEY.

What only has to be recognised (API keys) is stored as a hash instead. A value is encrypted with AES-256-GCM and bound
to its place: a row that is copied to another owner or name does not decrypt. ISSUER_SECRET_KEY may list several keys.
The first encrypts, all of them decrypt, so a key is replaced while the processes run: put a new key in front of the old
one everywhere, run `issuer secrets rotate`, remove the old key.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from issuer.settings import Settings
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
KEY_ID_BYTES: Final = 8
FORMAT: Final = b"\x01"
BATCH_SIZE: Final = 500


class SecretKeyError(Exception):
    """ISSUER_SECRET_KEY is missing or malformed, or none of its keys decrypts a value. The message says what to do."""


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a secret is stored: whose it is, such as `shop:1b4e…`, and its name."""

    owner: str
    name: str

    def bound(self, head: bytes) -> bytes:
        """Return what a value is bound to: format, key and place. The lengths keep two places apart."""
        owner, name = self.owner.encode(), self.name.encode()
        return b"".join((head, len(owner).to_bytes(4, "big"), owner, len(name).to_bytes(4, "big"), name))


class SecretKeys:
    """The keys of ISSUER_SECRET_KEY. They are part of no repr."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise SecretKeyError("ISSUER_SECRET_KEY needs keys of 32 bytes each, in base64: `issuer secrets new-key`")
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.current = key_id(keys[0])

    @classmethod
    def from_settings(cls, settings: Settings) -> SecretKeys:
        """Raises SecretKeyError."""
        if settings.secret_key is None:
            raise SecretKeyError("ISSUER_SECRET_KEY is not set: `issuer secrets new-key` prints one")
        try:
            keys = [base64.b64decode(key, validate=True) for key in settings.secret_key.get_secret_value().split(",")]
        except ValueError:
            keys = []
        return cls(keys)

    @property
    def ids(self) -> list[bytes]:
        return list(self._ciphers)

    def seal(self, value: bytes, place: SecretPlace) -> bytes:
        """Encrypt with the first key."""
        head, nonce = FORMAT + self.current, os.urandom(NONCE_BYTES)
        return head + nonce + self._ciphers[self.current].encrypt(nonce, value, place.bound(head))

    def open(self, sealed: bytes, place: SecretPlace) -> bytes:
        """Decrypt. Raises SecretKeyError: the key is missing, or the value was changed or belongs to another place."""
        end = len(FORMAT) + KEY_ID_BYTES
        head, nonce, encrypted = sealed[:end], sealed[end : end + NONCE_BYTES], sealed[end + NONCE_BYTES :]
        cipher = self._ciphers.get(head[len(FORMAT) :])
        if not head.startswith(FORMAT) or cipher is None:
            raise SecretKeyError(f"no key of ISSUER_SECRET_KEY decrypts {place.owner}/{place.name}: add the older key")
        try:
            return cipher.decrypt(nonce, encrypted, place.bound(head))
        except InvalidTag as error:
            raise SecretKeyError(f"{place.owner}/{place.name} was changed, or belongs to another place") from error


def key_id(key: bytes) -> bytes:
    """Return what names a key without revealing it."""
    return hashlib.sha256(b"issuer secret key\x00" + key).digest()[:KEY_ID_BYTES]


def new_key() -> str:
    """Return a random key as ISSUER_SECRET_KEY takes it."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


_PUT: Final = """
INSERT INTO stored_secrets (owner, name, key_id, sealed) VALUES ($1, $2, $3, $4)
ON CONFLICT (owner, name) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed, changed_at = now()"""

_OTHER_KEYS: Final = """
SELECT owner, name, sealed FROM stored_secrets WHERE key_id <> $1 ORDER BY owner, name LIMIT $2 FOR UPDATE"""


async def put_secret(connection: AnyConnection, keys: SecretKeys, place: SecretPlace, value: str) -> None:
    """Store a secret, or replace it, in the transaction of the caller."""
    await connection.execute(_PUT, place.owner, place.name, keys.current, keys.seal(value.encode(), place))


async def read_secret(connection: AnyConnection, keys: SecretKeys, place: SecretPlace) -> str | None:
    """Return a secret; None: there is none. Raises SecretKeyError."""
    sealed = await connection.fetchval(
        "SELECT sealed FROM stored_secrets WHERE owner = $1 AND name = $2", place.owner, place.name
    )
    return None if sealed is None else keys.open(sealed, place).decode()


async def rotate_secrets(postgres: Pool, keys: SecretKeys) -> int:
    """Encrypt with the first key what another key has encrypted; return how many secrets. Safe to kill and to repeat.

    Raises SecretKeyError at the first secret that no key decrypts; what was rotated before stays rotated.
    """
    rotated = 0
    while True:
        async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
            rows = await connection.fetch(_OTHER_KEYS, keys.current, BATCH_SIZE)
            for row in rows:
                place = SecretPlace(row["owner"], row["name"])
                await put_secret(connection, keys, place, keys.open(row["sealed"], place).decode())
        rotated += len(rows)
        if not rows:
            return rotated


async def count_unreadable(connection: AnyConnection, keys: SecretKeys | None) -> int:
    """Return how many stored secrets no present key decrypts."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM stored_secrets WHERE NOT key_id = ANY ($1)", [] if keys is None else keys.ids
    )
    return count

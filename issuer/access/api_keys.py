"""API keys: created, listed, revoked, stored as SHA-256; and the key ring, which holds the valid keys in memory."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from issuer.access import audit
from issuer.contract.keys import anonymous_scope
from issuer.instants import show_instant
from issuer.names import name_problem
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.rate_limit import OFF, InvalidRateLimitError, parse_limit
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import UNAVAILABLE, Pool, PoolConnection, unavailable_translated

log = structlog.get_logger()

PREFIX: Final = "isk_"
_CHANNEL: Final = "issuer_api_keys"
_MAX_SECRET: Final = 128
_COLUMNS: Final = (
    "id, name, scopes, client_id, created_at, revoked_at, rate_limit, failed_lookup_limit,"
    " (SELECT name FROM clients WHERE clients.id = api_keys.client_id) AS client_name"
)


class Scope(StrEnum):
    """PUBLIC: a key that the public can read, such as one in an app. Answers to it do not reveal which codes exist."""

    REDEEM = "redeem"
    ADMIN = "admin"
    PUBLIC = "public"


class InvalidApiKeyError(ValueError):
    """The parameters of a new key are invalid; the message says why."""


class ApiKeyNotFoundError(LookupError):
    """No key has this id."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret, which is not stored. With `client_id` it sees and changes only that client's data.

    `rate_limit`, `failed_lookup_limit`: the key's own limits in the form of `issuer.rate_limit`; None: the setting
    applies.
    """

    id: int
    name: str
    scopes: frozenset[Scope]
    client_id: UUID | None
    created_at: datetime
    revoked_at: datetime | None
    rate_limit: str | None = None
    failed_lookup_limit: str | None = None
    client_name: str | None = None
    anonymous_scope: bytes = field(init=False)
    """The scope of Idempotency-Keys in requests without a customer. Computed once: the hot path reads it."""

    def __post_init__(self) -> None:
        scope = anonymous_scope(self.client_id, public=Scope.PUBLIC in self.scopes)
        object.__setattr__(self, "anonymous_scope", scope)

    @property
    def actor(self) -> str:
        """The name of this key's user in the audit log."""
        return f"key:{self.id}:{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Return the key as the command line prints it."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "client_id": None if self.client_id is None else str(self.client_id),
            "client_name": self.client_name,
            "rate_limit": self.rate_limit,
            "failed_lookup_limit": self.failed_lookup_limit,
            "created_at": show_instant(self.created_at),
            "revoked_at": None if self.revoked_at is None else show_instant(self.revoked_at),
        }


def digest(secret: bytes) -> bytes:
    """Return the hash that Postgres stores. A fast one is enough: the secret has 256 random bits."""
    return hashlib.sha256(secret).digest()


def _parse_scopes(names: Collection[str]) -> list[Scope]:
    try:
        scopes = sorted({Scope(name) for name in names})
    except ValueError as error:
        raise InvalidApiKeyError(f"unknown scope; use {', '.join(Scope)}") from error
    if not scopes:
        raise InvalidApiKeyError("a key needs at least one scope")
    if Scope.PUBLIC in scopes and len(scopes) > 1:
        raise InvalidApiKeyError("a public key cannot have another scope")
    return scopes


_INSERT: Final = f"""
INSERT INTO api_keys (name, secret_sha256, scopes, client_id, rate_limit, failed_lookup_limit)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_COLUMNS}"""


async def create_key(
    postgres: Pool,
    *,
    name: str,
    scopes: Collection[str],
    client_id: UUID | None = None,
    rate_limit: str | None = None,
    failed_lookup_limit: str | None = None,
    actor: str,
    act: Act[ApiKey] = UNKEPT,
) -> tuple[ApiKey, str]:
    """Create a key. Return it with its secret, which is shown only this once.

    Raises InvalidApiKeyError, PostgresUnavailableError.
    """
    problem = name_problem(name)
    if problem:
        raise InvalidApiKeyError(problem)
    granted = _parse_scopes(scopes)
    if Scope.PUBLIC in granted and client_id is None:
        raise InvalidApiKeyError("a public key must be bound to a client")
    for limit in (rate_limit, failed_lookup_limit):
        try:
            parse_limit(limit or OFF)
        except InvalidRateLimitError as error:
            raise InvalidApiKeyError(f"a limit {error}") from error
    secret = PREFIX + secrets.token_urlsafe(32)
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(
            _INSERT, name, digest(secret.encode()), granted, client_id, rate_limit, failed_lookup_limit
        )
        assert row is not None
        key = _from_row(row)
        detail = {"name": name, "scopes": granted, "client_id": client_id}
        detail |= {"rate_limit": rate_limit, "failed_lookup_limit": failed_lookup_limit}
        await audit.record(connection, actor=actor, action="key.create", subject=f"key:{key.id}", detail=detail)
        await connection.execute("SELECT pg_notify($1, '')", _CHANNEL)
        await act.keep(connection, key)
    return key, secret


_PAGE: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE id > $1 ORDER BY id LIMIT $2"


async def list_keys(postgres: Pool, *, limit: int = 100, cursor: str | None = None) -> Page[ApiKey]:
    """Return one page of all keys, including revoked ones, oldest first.

    Raises InvalidCursorError, PostgresUnavailableError.
    """
    (last,) = decode_cursor("keys", cursor, (int,)) if cursor else (0,)
    async with unavailable_translated():
        rows = await postgres.fetch(_PAGE, last, limit + 1)
    return Page.of([_from_row(row) for row in rows], limit, lambda last: encode_cursor("keys", (last.id,)))


async def revoke_key(postgres: Pool, key_id: int, *, actor: str) -> ApiKey:
    """Revoke a key; a key that is already revoked keeps its `revoked_at`. Raises ApiKeyNotFoundError."""
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_keys WHERE id = $1 FOR UPDATE", key_id)
        if row is None:
            raise ApiKeyNotFoundError(f"no key has the id {key_id}")
        if row["revoked_at"] is not None:
            return _from_row(row)
        row = await connection.fetchrow(
            f"UPDATE api_keys SET revoked_at = now() WHERE id = $1 RETURNING {_COLUMNS}", key_id
        )
        assert row is not None
        detail = {"name": row["name"]}
        await audit.record(connection, actor=actor, action="key.revoke", subject=f"key:{key_id}", detail=detail)
        await connection.execute("SELECT pg_notify($1, '')", _CHANNEL)
        return _from_row(row)


def _from_row(row: asyncpg.Record) -> ApiKey:
    scopes = frozenset(Scope(scope) for scope in row["scopes"])
    client_id = None if row["client_id"] is None else UUID(bytes=row["client_id"].bytes)
    return ApiKey(
        row["id"], row["name"], scopes, client_id, row["created_at"], row["revoked_at"], row["rate_limit"],
        row["failed_lookup_limit"], row["client_name"],
    )  # fmt: skip


def _readable(rows: Iterable[asyncpg.Record]) -> Iterator[tuple[bytes, ApiKey]]:
    """Yield the keys by digest. A row that cannot be read is no key; the others are not affected."""
    for row in rows:
        try:
            key = _from_row(row)
            for limit in (key.rate_limit, key.failed_lookup_limit):
                parse_limit(limit or OFF)
        except Exception:
            log.exception("an API key cannot be read and is refused; revoke it or repair its row", key_id=row["id"])
        else:
            yield row["secret_sha256"], key


class KeyRing:
    """The valid keys in memory, so that no request queries Postgres.

    A revocation takes effect within 1 s: NOTIFY announces it at once, and a poll every 0.5 s covers a lost
    notification. While Postgres is unavailable the ring keeps the keys it has; a process that starts without Postgres
    starts with an empty ring.
    """

    POLL_S: Final = 0.5
    # A connection may be dead without an error. Time out early and reconnect, or the 1 s above would not hold.
    ANSWER_S: Final = 0.4
    START_S: Final = 3.0

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._by_digest: dict[bytes, ApiKey] = {}
        self._by_id: dict[int, ApiKey] = {}
        # Valid secrets as clients sent them, alone and behind "Bearer ": saves the hash on later requests. Unknown
        # secrets and other spellings are never kept, so a client cannot fill the memory.
        self._by_value: dict[str | bytes, ApiKey] = {}
        self.recall: Callable[[bytes], ApiKey | None] = self._by_value.get
        """Return the valid key that a value of the header Authorization had before. Costs no Python call."""
        self._table_state: tuple[Any, ...] | None = None
        self._changed = asyncio.Event()
        self._loaded = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the keys were read from Postgres at least once."""
        return self._loaded.is_set()

    async def start(self) -> None:
        """Start to watch the keys. Return when they are loaded, or after 3 s; the ring then keeps trying."""
        self._task = asyncio.create_task(self._watch(), name="api-key-ring")
        with suppress(TimeoutError):
            async with asyncio.timeout(self.START_S):
                await self._loaded.wait()

    async def aclose(self) -> None:
        """Stop watching. Call this before the pool is closed: closing waits for the ring's connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def find(self, secret: str | bytes) -> ApiKey | None:
        """Return the valid key with this secret, or None. Never raises, whatever the secret is."""
        key = self._by_value.get(secret)
        if key is not None:
            return key
        if not 0 < len(secret) <= _MAX_SECRET:
            return None
        try:
            raw = secret.encode("ascii") if isinstance(secret, str) else secret
        except UnicodeEncodeError:
            return None
        key = self._by_digest.get(digest(raw))
        if key is not None:
            self._by_value[secret] = self._by_value[b"Bearer " + raw] = key
        return key

    def get(self, key_id: int) -> ApiKey | None:
        """Return the valid key with this id, for a session that it signed in; None: it was revoked."""
        return self._by_id.get(key_id)

    async def _watch(self) -> None:
        unavailable = False
        while True:
            try:
                async with self._postgres.acquire(timeout=self.START_S) as connection:
                    async for _ in self._poll(connection):
                        if unavailable:
                            log.info("Postgres is available again; API keys are up to date")
                            unavailable = False
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                if unavailable:
                    await asyncio.sleep(self.POLL_S)
                    continue
                log.warning("Postgres is unavailable; keeping the loaded API keys", error=type(error).__name__)
                unavailable = True

    async def _poll(self, connection: PoolConnection) -> AsyncIterator[None]:
        """Refresh the keys until the connection fails; yield after each refresh."""
        await connection.add_listener(_CHANNEL, self._on_notify)
        try:
            while True:
                await self._refresh(connection)
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.POLL_S):
                        await self._changed.wait()
        except (*UNAVAILABLE, asyncpg.PostgresError):
            # A release would wait for an answer on this connection.
            connection.terminate()
            raise
        finally:
            # An error of a dead connection must not replace a cancellation.
            with suppress(*UNAVAILABLE, asyncpg.PostgresError):
                await connection.remove_listener(_CHANNEL, self._on_notify)

    def _on_notify(self, *_: Any) -> None:
        self._changed.set()

    async def _refresh(self, connection: PoolConnection) -> None:
        """Read the keys if one was created or revoked since the last refresh."""
        self._changed.clear()
        row = await connection.fetchrow(
            "SELECT count(*), max(id), count(revoked_at), max(revoked_at) FROM api_keys", timeout=self.ANSWER_S
        )
        assert row is not None
        table_state = tuple(row)
        if table_state != self._table_state:
            rows = await connection.fetch(
                f"SELECT secret_sha256, {_COLUMNS} FROM api_keys WHERE revoked_at IS NULL", timeout=self.START_S
            )
            self._by_digest = dict(_readable(rows))
            self._by_id = {key.id: key for key in self._by_digest.values()}
            # In place: `recall` belongs to this dictionary.
            self._by_value.clear()
            self._table_state = table_state
        self._loaded.set()

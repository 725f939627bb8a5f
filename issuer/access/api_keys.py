"""API keys: made once, shown once, kept as SHA-256; and the ring of valid keys that every process holds in memory."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from issuer.access import audit
from issuer.instants import show_instant
from issuer.names import name_problem
from issuer.rate_limit import OFF, InvalidRateLimitError, parse_limit
from issuer.storage.postgres import UNAVAILABLE, Pool, PoolConnection, unavailable_translated

log = structlog.get_logger()

PREFIX: Final = "isk_"
_CHANNEL: Final = "issuer_api_keys"
_MAX_SECRET: Final = 128
_COLUMNS: Final = "id, name, scopes, client_id, created_at, revoked_at, rate_limit, failed_lookup_limit"


class Scope(StrEnum):
    """PUBLIC: a key in the hands of the public, such as one in an app; what it is told helps nobody who guesses."""

    REDEEM = "redeem"
    ADMIN = "admin"
    PUBLIC = "public"


class InvalidApiKeyError(ValueError):
    """A key that cannot be made as asked; the message says why."""


class ApiKeyNotFoundError(LookupError):
    """There is no key with this id."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; its secret is not. With `client_id` it sees and touches only what is that client's.

    `rate_limit`, `failed_lookup_limit`: its own limits in the form of `issuer.rate_limit`; None: the setting's.
    """

    id: int
    name: str
    scopes: frozenset[Scope]
    client_id: UUID | None
    created_at: datetime
    revoked_at: datetime | None
    rate_limit: str | None = None
    failed_lookup_limit: str | None = None

    @property
    def actor(self) -> str:
        """How the audit log names whoever used it."""
        return f"key:{self.id}:{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The key as the command line shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "client_id": None if self.client_id is None else str(self.client_id),
            "rate_limit": self.rate_limit,
            "failed_lookup_limit": self.failed_lookup_limit,
            "created_at": show_instant(self.created_at),
            "revoked_at": None if self.revoked_at is None else show_instant(self.revoked_at),
        }


def digest(secret: bytes) -> bytes:
    """What Postgres keeps. A fast hash is right: the secret has 256 bits that nobody chose."""
    return hashlib.sha256(secret).digest()


def _wanted_scopes(scopes: Collection[str]) -> list[Scope]:
    try:
        wanted = sorted({Scope(scope) for scope in scopes})
    except ValueError as error:
        raise InvalidApiKeyError(f"scopes are {', '.join(Scope)}") from error
    if not wanted:
        raise InvalidApiKeyError("a key needs at least one scope")
    if Scope.PUBLIC in wanted and len(wanted) > 1:
        raise InvalidApiKeyError("a key that is public cannot have another scope")
    return wanted


async def create_key(
    postgres: Pool,
    *,
    name: str,
    scopes: Collection[str],
    client_id: UUID | None = None,
    rate_limit: str | None = None,
    failed_lookup_limit: str | None = None,
    actor: str,
) -> tuple[ApiKey, str]:
    """Makes a key and returns it with its secret, which cannot be had again. Raises InvalidApiKeyError."""
    problem = name_problem(name)
    if problem:
        raise InvalidApiKeyError(problem)
    wanted = _wanted_scopes(scopes)
    if Scope.PUBLIC in wanted and client_id is None:
        raise InvalidApiKeyError("a key that is public must be bound to a client")
    for limit in (rate_limit, failed_lookup_limit):
        try:
            parse_limit(limit or OFF)
        except InvalidRateLimitError as error:
            raise InvalidApiKeyError(f"a limit {error}") from error
    secret = PREFIX + secrets.token_urlsafe(32)
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "INSERT INTO api_keys (name, secret_sha256, scopes, client_id, rate_limit, failed_lookup_limit)"
            f" VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_COLUMNS}",
            name,
            digest(secret.encode()),
            wanted,
            client_id,
            rate_limit,
            failed_lookup_limit,
        )
        assert row is not None
        key = _from_row(row)
        detail = {"name": name, "scopes": wanted, "client_id": client_id}
        detail |= {"rate_limit": rate_limit, "failed_lookup_limit": failed_lookup_limit}
        await audit.record(connection, actor=actor, action="key.create", subject=f"key:{key.id}", detail=detail)
        await connection.execute("SELECT pg_notify($1, '')", _CHANNEL)
    return key, secret


async def list_keys(postgres: Pool) -> list[ApiKey]:
    """All keys, revoked ones too, oldest first."""
    async with unavailable_translated():
        return [_from_row(row) for row in await postgres.fetch(f"SELECT {_COLUMNS} FROM api_keys ORDER BY id")]


async def revoke_key(postgres: Pool, key_id: int, *, actor: str) -> ApiKey:
    """Revokes a key; one that is revoked stays as it is. Raises ApiKeyNotFoundError."""
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_keys WHERE id = $1 FOR UPDATE", key_id)
        if row is None:
            raise ApiKeyNotFoundError(f"there is no key {key_id}")
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
        row["failed_lookup_limit"],
    )  # fmt: skip


class KeyRing:
    """The valid keys, in memory, so that no request asks Postgres.

    A revocation counts within 1 s: LISTEN tells of it at once, and should that be lost, a look every 0.5 s does.
    While Postgres is away the ring stays as it is; a process that starts without Postgres starts with an empty one.
    """

    POLL_S: Final = 0.5
    # A connection that is dead without knowing it must not outlast the promise: give up early, connect again.
    ANSWER_S: Final = 0.4
    START_S: Final = 3.0

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._by_digest: dict[bytes, ApiKey] = {}
        # Secrets that were found, as they came: spares the hash on every request. Never holds what was not found.
        self._by_secret: dict[str | bytes, ApiKey] = {}
        self._seen: tuple[Any, ...] | None = None
        self._changed = asyncio.Event()
        self._loaded = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        """Whether Postgres was read at least once."""
        return self._loaded.is_set()

    async def start(self) -> None:
        """Returns when the keys are there, or after 3 s without them; the ring goes on trying."""
        self._task = asyncio.create_task(self._watch(), name="api-key-ring")
        with suppress(TimeoutError):
            async with asyncio.timeout(self.START_S):
                await self._loaded.wait()

    async def aclose(self) -> None:
        """Ends the watch. Call it before the pool is closed, which waits for the ring's connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def find(self, secret: str | bytes) -> ApiKey | None:
        """The valid key with this secret, or None; never raises, whatever it is given."""
        key = self._by_secret.get(secret)
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
            self._by_secret[secret] = key
        return key

    async def _watch(self) -> None:
        away = False
        while True:
            try:
                async with self._postgres.acquire(timeout=self.START_S) as connection:
                    async for _ in self._looks(connection):
                        if away:
                            log.info("Postgres is back; the API keys are current again")
                            away = False
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                if away:
                    await asyncio.sleep(self.POLL_S)
                    continue
                log.warning("Postgres is away; keeping the API keys known so far", error=type(error).__name__)
                away = True

    async def _looks(self, connection: PoolConnection) -> AsyncIterator[None]:
        """Looks again and again, as long as the connection lasts."""
        await connection.add_listener(_CHANNEL, self._on_notify)
        try:
            while True:
                await self._refresh(connection)
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.POLL_S):
                        await self._changed.wait()
        except (*UNAVAILABLE, asyncpg.PostgresError):
            # To hand it back in good order would need an answer from it.
            connection.terminate()
            raise
        finally:
            # What a dead connection says here must not take the place of a cancellation.
            with suppress(*UNAVAILABLE, asyncpg.PostgresError):
                await connection.remove_listener(_CHANNEL, self._on_notify)

    def _on_notify(self, *_: Any) -> None:
        self._changed.set()

    async def _refresh(self, connection: PoolConnection) -> None:
        """Reads the keys if any was made or revoked since the last look."""
        self._changed.clear()
        marks = await connection.fetchrow(
            "SELECT count(*), max(id), count(revoked_at), max(revoked_at) FROM api_keys", timeout=self.ANSWER_S
        )
        assert marks is not None
        seen = tuple(marks)
        if seen != self._seen:
            rows = await connection.fetch(
                f"SELECT secret_sha256, {_COLUMNS} FROM api_keys WHERE revoked_at IS NULL", timeout=self.START_S
            )
            self._by_digest = {row["secret_sha256"]: _from_row(row) for row in rows}
            self._by_secret = {}
            self._seen = seen
        self._loaded.set()

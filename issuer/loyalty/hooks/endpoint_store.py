"""Create, find, list and revoke endpoints, and rotate their secrets, which are stored encrypted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.access.secrets import SecretKeys, put_secret, read_secret
from issuer.instants import EPOCH
from issuer.loyalty.hooks.endpoint import (
    PREVIOUS_HOURS,
    HookEndpoint,
    HookExistsError,
    HookNotFoundError,
    InvalidHookError,
    parse_notification_url,
    parse_source,
    path_of,
)
from issuer.loyalty.hooks.events import ShopKind
from issuer.loyalty.hooks.signatures import ShopSecretError, check_secret, new_secret
from issuer.loyalty.program import Program
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

COLUMNS: Final = (
    "id, client_id, program_id, kind, source, notification_url, keeps_unknown, created_at, previous_until, revoked_at"
)

_INSERT: Final = f"""
INSERT INTO hook_endpoints (id, client_id, program_id, kind, source, notification_url, keeps_unknown)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (program_id, source) WHERE revoked_at IS NULL DO NOTHING
RETURNING {COLUMNS}"""

_FIND: Final = f"""
SELECT {COLUMNS} FROM hook_endpoints WHERE id = $1 AND ($2::uuid IS NULL OR program_id = $2)"""

_LIST: Final = f"""
SELECT {COLUMNS} FROM hook_endpoints WHERE program_id = $1 AND (created_at, id) > ($2, $3::uuid)
ORDER BY created_at, id LIMIT $4"""

_ROTATE: Final = f"""
UPDATE hook_endpoints SET previous_until = now() + make_interval(hours => {PREVIOUS_HOURS})
WHERE id = $1 AND revoked_at IS NULL RETURNING {COLUMNS}"""

_REVOKE: Final = f"""
UPDATE hook_endpoints SET revoked_at = coalesce(revoked_at, now()), previous_until = NULL WHERE id = $1
RETURNING {COLUMNS}"""

_FORGET_SECRETS: Final = "DELETE FROM stored_secrets WHERE owner = $1"

_BEFORE_ALL: Final = (EPOCH, UUID(int=0))


@dataclass(frozen=True, slots=True)
class HookWithSecret:
    """An endpoint and its new secret, which is shown once and is part of no repr."""

    endpoint: HookEndpoint
    secret: str

    def __repr__(self) -> str:
        return f"HookWithSecret({self.endpoint.id})"


def endpoint_from_row(row: asyncpg.Record) -> HookEndpoint:
    return HookEndpoint(
        UUID(bytes=row["id"].bytes), UUID(bytes=row["client_id"].bytes), UUID(bytes=row["program_id"].bytes),
        ShopKind(row["kind"]), row["source"], row["notification_url"], row["keeps_unknown"], row["created_at"],
        row["previous_until"], row["revoked_at"],
    )  # fmt: skip


async def create_endpoint(
    postgres: Pool,
    keys: SecretKeys,
    program: Program,
    kind: ShopKind,
    *,
    secret: str | None = None,
    source: str | None = None,
    notification_url: str | None = None,
    keeps_unknown: bool = False,
    actor: str,
    act: Act[HookWithSecret] = UNKEPT,
) -> HookWithSecret:
    """Create an endpoint. Without a secret one is drawn; a shop that has its own needs a rotation to that.

    Raises InvalidHookError, HookExistsError, PostgresUnavailableError.
    """
    source = parse_source(str(kind) if source is None else source)
    hook_id, secret = uuid4(), _checked(kind, secret)
    url = parse_notification_url(kind, notification_url, path_of(hook_id))
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(
            _INSERT, hook_id, program.client_id, program.id, str(kind), source, url, keeps_unknown
        )
        if row is None:
            raise HookExistsError(source)
        created = HookWithSecret(endpoint_from_row(row), secret)
        await put_secret(connection, keys, created.endpoint.secret, secret)
        await _record(connection, created.endpoint, "hook.create", actor)
        await act.keep(connection, created)
    return created


async def rotate_secret(
    postgres: Pool,
    keys: SecretKeys,
    endpoint: HookEndpoint,
    *,
    secret: str | None = None,
    actor: str,
    act: Act[HookWithSecret] = UNKEPT,
) -> HookWithSecret:
    """Give an endpoint a new secret. The one before stays valid for PREVIOUS_HOURS; one before that no longer.

    Raises InvalidHookError, HookNotFoundError if it is revoked, SecretKeyError, PostgresUnavailableError.
    """
    secret = _checked(endpoint.kind, secret)
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(_ROTATE, endpoint.id)
        if row is None:
            raise HookNotFoundError
        rotated = HookWithSecret(endpoint_from_row(row), secret)
        before = await read_secret(connection, keys, endpoint.secret)
        if before is not None and before != secret:
            await put_secret(connection, keys, endpoint.previous_secret, before)
        await put_secret(connection, keys, endpoint.secret, secret)
        await _record(connection, rotated.endpoint, "hook.rotate", actor)
        await act.keep(connection, rotated)
    return rotated


async def revoke_endpoint(
    postgres: Pool, endpoint: HookEndpoint, *, actor: str, act: Act[HookEndpoint] = UNKEPT
) -> HookEndpoint:
    """Revoke an endpoint and remove its secrets; a repeat changes nothing. What has arrived is processed."""
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(_REVOKE, endpoint.id)
        if row is None:
            raise HookNotFoundError
        revoked = endpoint_from_row(row)
        await connection.execute(_FORGET_SECRETS, endpoint.secret.owner)
        await _record(connection, revoked, "hook.revoke", actor)
        await act.keep(connection, revoked)
    return revoked


async def find_endpoint(postgres: Pool, endpoint_id: UUID, *, program_id: UUID | None = None) -> HookEndpoint:
    """Return an endpoint; with `program_id` only one of that program. Raises HookNotFoundError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, endpoint_id, program_id)
    if row is None:
        raise HookNotFoundError
    return endpoint_from_row(row)


async def list_endpoints(
    postgres: Pool, program_id: UUID, *, limit: int = 100, cursor: str | None = None
) -> Page[HookEndpoint]:
    """Return one page of the endpoints of a program, oldest first, with those that are revoked."""
    after = decode_cursor("hooks", cursor, (datetime, UUID)) if cursor else _BEFORE_ALL
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, program_id, *after, limit + 1)
    endpoints = [endpoint_from_row(row) for row in rows]
    return Page.of(endpoints, limit, lambda last: encode_cursor("hooks", (last.created_at, last.id)))


async def valid_secrets(postgres: Pool, keys: SecretKeys, endpoint: HookEndpoint, now: datetime) -> Sequence[str]:
    """Return the secrets with which a delivery may be signed at `now`, the newest first. Raises SecretKeyError."""
    places = [endpoint.secret]
    if endpoint.previous_until is not None and now < endpoint.previous_until:
        places.append(endpoint.previous_secret)
    async with unavailable_translated(), postgres.acquire() as connection:
        found = [await read_secret(connection, keys, place) for place in places]
    return [secret for secret in found if secret is not None]


def _checked(kind: ShopKind, secret: str | None) -> str:
    try:
        if secret is None:
            return new_secret(kind)
        check_secret(kind, secret)
    except ShopSecretError as error:
        raise InvalidHookError(str(error)) from error
    return secret


async def _record(connection: AnyConnection, endpoint: HookEndpoint, action: str, actor: str) -> None:
    await audit.record(
        connection, actor=actor, action=action, subject=f"hook:{endpoint.id}", detail=endpoint.to_json()
    )  # fmt: skip

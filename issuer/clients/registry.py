"""Register, rename, find and list clients.

A client that callers name by a UUID needs no row here: it exists as soon as it has codes. One that they name by a text,
such as `band-42`, is registered first, so that a misspelt text in a file is an error and not another client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.access import audit
from issuer.ids import Identity, id_text, parse_uuid
from issuer.instants import show_instant
from issuer.names import name_problem
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated
from issuer.storage.stores import Stores


class ClientNotFoundError(LookupError):
    """The client is not registered. The message says how to register one that has a text."""


class ClientExistsError(Exception):
    """A client with this id is registered already."""

    def __init__(self, client_id: UUID) -> None:
        super().__init__(f"the client {client_id} is registered already")


class InvalidClientError(ValueError):
    """A value of a client is invalid; the message says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client. `text`: the id that its operator gave it; None: it has only a UUID."""

    id: UUID
    text: str | None
    name: str
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the client as the API and the command line show it."""
        return {
            "id": str(self.id),
            "text": self.text,
            "name": self.name,
            "created_at": show_instant(self.created_at),
        }


_INSERT: Final = """
INSERT INTO clients (id, text, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING *"""
_UNREGISTERED: Final = """
SELECT u.id FROM unnest($1::uuid[]) AS u (id) WHERE NOT EXISTS (SELECT FROM clients c WHERE c.id = u.id)"""
_PAGE: Final = """
SELECT * FROM clients WHERE ($1::uuid IS NULL OR id = $1) AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3))
ORDER BY created_at, id LIMIT $4"""


async def create_client(
    stores: Stores, identity: Identity, *, name: str | None = None, actor: str, act: Act[Client] = UNKEPT
) -> Client:
    """Register a client. One that has a text is called by it if no name is given.

    Raises ClientExistsError, InvalidClientError, PostgresUnavailableError.
    """
    if name is None and identity.text is None:
        raise InvalidClientError("name is needed for a client that has only a UUID")
    name = identity.text if name is None else _checked(name)
    assert name is not None
    async with act.transaction(stores.postgres) as connection:
        row = await _insert(connection, identity, name, actor)
        if row is None:
            raise ClientExistsError(identity.uuid)
        client = _from_row(row)
        await act.keep(connection, client)
    return client


async def register_clients(connection: AnyConnection, identities: Iterable[Identity], actor: str) -> Sequence[Identity]:
    """Register clients with their texts as their names, in the caller's transaction. Return those that are new.

    Sorted, so that two transactions never wait for each other.
    """
    return [
        identity
        for identity in sorted(identities)
        if await _insert(connection, identity, identity.text or str(identity.uuid), actor) is not None
    ]


async def rename_client(postgres: Pool, client_id: UUID, name: str, *, actor: str) -> Client:
    """Change the name of a client. Raises ClientNotFoundError, InvalidClientError, PostgresUnavailableError."""
    _checked(name)
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        before = await connection.fetchval("SELECT name FROM clients WHERE id = $1 FOR NO KEY UPDATE", client_id)
        if before is None:
            raise ClientNotFoundError("no client found")
        row = await connection.fetchrow("UPDATE clients SET name = $2 WHERE id = $1 RETURNING *", client_id, name)
        assert row is not None
        if name != before:
            detail = {"name": {"from": before, "to": name}}
            await audit.record(
                connection, actor=actor, action="client.change", subject=f"client:{client_id}", detail=detail
            )
    return _from_row(row)


async def find_client(postgres: Pool, client_id: UUID) -> Client:
    """Return a registered client. Raises ClientNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow("SELECT * FROM clients WHERE id = $1", client_id)
    if row is None:
        raise ClientNotFoundError("no client found")
    return _from_row(row)


async def known_client(postgres: Pool | AnyConnection, given: str) -> UUID:
    """Return the id of the client that a caller names: by any UUID, or by the text of a registered client.

    Raises ClientNotFoundError, InvalidIdError, PostgresUnavailableError.
    """
    client_id = parse_uuid(given)
    if client_id is not None:
        return client_id
    text = id_text(given)
    if (client_id := parse_uuid(text)) is not None:
        return client_id
    async with unavailable_translated():
        found = await postgres.fetchval("SELECT id FROM clients WHERE text = $1", text)
    if found is None:
        raise ClientNotFoundError(unknown_client(text))
    return UUID(bytes=found.bytes)


async def default_client(stores: Stores) -> UUID | None:
    """Return the client of what names none; None: there is no such client.

    Raises ClientNotFoundError, PostgresUnavailableError.
    """
    given = stores.settings.default_client
    try:
        return None if given is None else await known_client(stores.postgres, given)
    except ClientNotFoundError as error:
        raise ClientNotFoundError(f"ISSUER_DEFAULT_CLIENT: {error}") from error


async def client_names(postgres: Pool | AnyConnection, client_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the names of those of the clients that are registered. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        rows = await postgres.fetch("SELECT id, name FROM clients WHERE id = ANY ($1)", client_ids)
    return {UUID(bytes=row["id"].bytes): row["name"] for row in rows}


def client_label(client_id: UUID, name: str | None) -> str:
    """Return a client for people: `Demo shop (d3300000-…)`, or the id alone."""
    return str(client_id) if name is None else f"{name} ({client_id})"


def unknown_client(text: str) -> str:
    """Return why a text names no client, and what registers it."""
    return f"unknown client {text!r}: issuer clients create {quote(text)}"


async def unregistered(connection: AnyConnection, client_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the clients that are not registered."""
    rows = await connection.fetch(_UNREGISTERED, client_ids)
    return {UUID(bytes=row["id"].bytes) for row in rows}


async def list_clients(
    postgres: Pool, *, client_id: UUID | None = None, limit: int = 100, cursor: str | None = None
) -> Page[Client]:
    """Return one page of the registered clients, oldest first; with `client_id`, of that one alone.

    Raises InvalidCursorError, PostgresUnavailableError.
    """
    created_at, last_id = decode_cursor("clients", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(_PAGE, client_id, created_at, last_id, limit + 1)
    clients = [_from_row(row) for row in rows]
    return Page.of(clients, limit, lambda last: encode_cursor("clients", (last.created_at, last.id)))


async def _insert(connection: AnyConnection, identity: Identity, name: str, actor: str) -> asyncpg.Record | None:
    row = await connection.fetchrow(_INSERT, identity.uuid, identity.text, name)
    if row is not None:
        detail = {"client": identity.text, "name": name}
        subject = f"client:{identity.uuid}"
        await audit.record(connection, actor=actor, action="client.create", subject=subject, detail=detail)
    return row


def _checked(name: str) -> str:
    problem = name_problem(name)
    if problem is None and parse_uuid(name) is not None:
        problem = "name must not have the form of a UUID: it would be taken for an id"
    if problem is not None:
        raise InvalidClientError(problem)
    return name


def _from_row(row: asyncpg.Record) -> Client:
    return Client(UUID(bytes=row["id"].bytes), row["text"], row["name"], row["created_at"])

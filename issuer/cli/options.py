"""Options that commands share, and the ids and instants that the text of options becomes. A fault names the option."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from issuer.cli.output import InputError
from issuer.ids import InvalidIdError, id_of, parse_uuid
from issuer.instants import InvalidInstantError, parse_instant

if TYPE_CHECKING:
    from issuer.storage.postgres import Pool
    from issuer.storage.stores import Stores

AS_JSON = typer.Option(False, "--json", help="Print JSON.")


def uuid_option(text: str | None, option: str) -> UUID | None:
    """Parse the UUID of an option. Raises InputError."""
    found = None if text is None else parse_uuid(text)
    if text is not None and found is None:
        raise InputError(f"{option}: not a UUID")
    return found


async def identity_option(postgres: Pool, text: str, option: str) -> UUID:
    """Return the id of a client or customer that an option names, known or not. Raises InputError."""
    from issuer.storage.incarnation import read_installation_id

    try:
        return id_of(text, await read_installation_id(postgres)).uuid
    except InvalidIdError as error:
        raise InputError(f"{option}: {error}") from error


async def default_client_option(stores: Stores) -> UUID | None:
    """Return the client of what names none. Raises InputError."""
    from issuer.clients.registry import ClientNotFoundError, default_client

    try:
        return await default_client(stores)
    except ClientNotFoundError as error:
        raise InputError(str(error)) from error


async def client_option(postgres: Pool, text: str | None) -> UUID | None:
    """Return the client that an option names. Raises InputError."""
    from issuer.clients.registry import ClientNotFoundError, known_client

    try:
        return None if text is None else await known_client(postgres, text)
    except (ClientNotFoundError, InvalidIdError) as error:
        raise InputError(str(error)) from error


def instant_option(text: str | None, option: str) -> datetime | None:
    """Parse the time of an option. Raises InputError."""
    try:
        return None if text is None else parse_instant(text)
    except InvalidInstantError as error:
        raise InputError(f"{option}: {error}") from error

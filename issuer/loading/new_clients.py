"""The clients that a file names by a text: unless they are registered, or are to be, their rows are rejected."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from issuer.clients.registry import unknown_client
from issuer.ids import Identity
from issuer.loading.code_rows import MAX_REJECTIONS, CodeRows, Rejection
from issuer.loading.file_clients import FileClients
from issuer.loading.staging import Numbering, remove_rows
from issuer.storage.postgres import AnyConnection


async def reject_clients(
    connection: AnyConnection, rows: CodeRows, unknown: Collection[UUID], *, create_option: str
) -> None:
    """Remove the rows of unknown clients from the staging table, and count them as rejected.

    `create_option`: what their caller may give to have them registered.
    """
    clients = rows.clients
    reasons = {
        index: f"{unknown_client(clients.texts[client_id])}, or {create_option}"
        for index, client_id in enumerate(clients.ids)
        if client_id in unknown
    }
    count, removed = await remove_rows(connection, list(reasons), limit=MAX_REJECTIONS)
    rows.reject_rows(count, [Rejection(line, reasons[client]) for line, client in removed])


def clients_to_create(clients: FileClients, unknown: Collection[UUID], numbering: Numbering) -> list[Identity]:
    """Return the unknown clients that get codes."""
    with_codes = (clients.ids[addition.client] for addition in numbering.additions)
    return [clients.identity(client) for client in with_codes if client in unknown]

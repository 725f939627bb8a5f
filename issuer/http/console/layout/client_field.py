"""The field that names whose codes a form adds."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from issuer.clients.registry import ClientNotFoundError, create_client, default_client, known_client, list_clients
from issuer.generating.code_format import CodeFormatError
from issuer.generating.request import find_only_client
from issuer.http.console.console_visit import ConsoleVisit
from issuer.http.console.layout.typed_form import TypedForm
from issuer.ids import InvalidIdError

MAX_OFFERED: Final = 200


async def offered_clients(visit: ConsoleVisit) -> list[str]:
    """Return the texts of registered clients that the field offers; none where the visit is bound to one."""
    if visit.client_id is not None:
        return []
    page = await list_clients(visit.context.services.stores.postgres, limit=MAX_OFFERED)
    return [client.text or str(client.id) for client in page.items]


async def read_client(
    visit: ConsoleVisit, typed: TypedForm, *, needed: bool = False, batch_id: UUID | None = None
) -> UUID | None:
    """Return the client that the form names, or that of the visit, or the default client of the installation.

    `batch_id`: the batch whose only client comes before the default one, as at the routes that generate codes. None:
    there is no client, which is refused where one is `needed`. A text that is unknown is refused until the form says,
    in the field `new_client`, that it is a new client: that one is registered then.
    """
    stores, text = visit.context.services.stores, typed.text("client")
    if visit.client_id is not None:
        return visit.client_id
    try:
        if text:
            return await known_client(stores.postgres, text)
        found = None if batch_id is None else await find_only_client(stores.postgres, batch_id)
        found = found or await default_client(stores)
    except CodeFormatError:
        typed.refuse("client", "the batch has several clients: say whose codes they are")
        return None
    except InvalidIdError as error:
        typed.refuse("client", str(error))
        return None
    except ClientNotFoundError:
        if not typed.checked("new_client"):
            typed.refuse("client", f"no client is called {text}")
            typed.errors["new_client"] = ""
            return None
        if typed.errors:
            return None
        return (await create_client(stores, stores.identity(text), actor=visit.actor)).id
    if found is None and needed:
        typed.refuse("client", "say whose codes they are")
    return found

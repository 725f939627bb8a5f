"""The naming rule of the API's own routes: `client` and `batch` take a name or an id, `client_id` and `batch_id` an id.

The name of a client is the text that it was registered with; a text in `client_id` means the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from issuer.batches.batch import Batch, BatchNotFoundError
from issuer.batches.named import find_named_batch
from issuer.batches.store import find_batch
from issuer.clients.registry import default_client, known_client
from issuer.http.auth import BOUND_KEY
from issuer.http.operations import RequestContext
from issuer.http.problems.problem import invalid
from issuer.http.wire import prebuilt
from issuer.ids import parse_uuid

CLIENT_FIELDS: Final = ("client", "client_id")
BATCH_FIELDS: Final = ("batch", "batch_id")
TWO_BATCHES: Final = prebuilt(invalid("batch and batch_id name two batches"))


def text_field(values: Mapping[str, Any], name: str) -> str | None:
    """Return a text of a request; None: it is null or absent."""
    value = values.get(name)
    if value is None or isinstance(value, str):
        return value
    raise invalid(f"{name} must be a string")


def batch_given(name: str | None, batch_id: UUID | None) -> tuple[str | None, UUID | None]:
    """Return the name and the id by which `batch` and `batch_id` name a batch: `batch` may be an id, too.

    Raises ProblemError (400) for two different ids. With a name and an id the name must stand for the id.
    """
    named = None if name is None else parse_uuid(name)
    if named is None:
        return name, batch_id
    if batch_id not in (None, named):
        raise TWO_BATCHES
    return None, named


async def named_client(context: RequestContext, values: Mapping[str, Any]) -> UUID | None:
    """Return the client that a request is for: that of a bound key, or else the one that it names; None: it names none.

    Raises ProblemError: 400 for two different ones, 403 for another one than that of the key. Raises
    ClientNotFoundError for a text that is not registered, InvalidIdError.
    """
    stores, bound_to = context.services.stores, context.caller.client_id
    given = [text for name in CLIENT_FIELDS if (text := text_field(values, name)) is not None]
    ids = {stores.identity(text).uuid for text in given}
    if len(ids) > 1:
        raise invalid("client and client_id name two clients")
    if bound_to is not None:
        if ids - {bound_to}:
            raise BOUND_KEY
        return bound_to
    return await known_client(stores.postgres, given[0]) if given else None


async def owner_of_codes(context: RequestContext, values: Mapping[str, Any]) -> UUID | None:
    """Return the client whose codes a request adds: `named_client`, or else the default client of the installation.

    Raises what these raise.
    """
    return await named_client(context, values) or await default_client(context.services.stores)


async def named_batch(
    context: RequestContext, values: Mapping[str, Any], *, client_id: UUID | None = None
) -> Batch | None:
    """Return the batch that a request names, by name or id; None: it names none.

    With `client_id` only batches in which that client has a pool. Raises BatchNotFoundError, AmbiguousNameError, and
    ProblemError (400) for two different ones, or for an id that is no UUID.
    """
    postgres = context.services.stores.postgres
    name, id_text = text_field(values, "batch"), text_field(values, "batch_id")
    batch_id = None if id_text is None else parse_uuid(id_text)
    if id_text is not None and batch_id is None:
        raise invalid("invalid batch_id format", "invalid_batch_id")
    name, batch_id = batch_given(name, batch_id)
    if name is None:
        return None if batch_id is None else await find_batch(postgres, batch_id, client_id=client_id)
    if "\0" in name:
        raise BatchNotFoundError("no batch found")
    if batch_id is not None:
        batch = await find_batch(postgres, batch_id, client_id=client_id)
        if batch.name != name:
            raise TWO_BATCHES
        return batch
    return await find_named_batch(postgres, name, client_id=client_id)

"""What a request for a redemption names: batch, client and customer, each by the ids and names that its caller uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.contract.outcomes import Outcome
from issuer.http.fields import bad_id, identify, refuse_unknown, uuid_of
from issuer.http.naming import BATCH_FIELDS, CLIENT_FIELDS, batch_given
from issuer.http.problems.problem import ProblemError, invalid, outcome_problem
from issuer.http.services import Services
from issuer.ids import Identity
from issuer.names import MAX_NAME

CUSTOMER_FIELDS: Final = ("customer", "customer_id")
FIELDS: Final = (*BATCH_FIELDS, *CLIENT_FIELDS, *CUSTOMER_FIELDS)


# Not frozen: creating a frozen instance takes three times as long, and there is one per request.
@dataclass(slots=True)
class RedemptionRequest:
    """A request. `batch_name` None: `batch_id` alone names the batch; both: the name must stand for the id.

    `client_text`: what the request calls its client by; None: a UUID, or nothing.
    """

    batch_name: str | None
    batch_id: UUID | None
    client: bytes
    client_text: str | None
    customer: Identity


def read_redemption_request(services: Services, values: Mapping[str, Any], bound_to: UUID | None) -> RedemptionRequest:
    """Check the fields. `bound_to`: the client of the key, if it has one. Raises ProblemError."""
    refuse_unknown(values, FIELDS)
    name, batch_id = _batch(values.get("batch"), values.get("batch_id"))
    client = _either(services, values, *CLIENT_FIELDS)
    if client is not None:
        packed = client.packed
    elif bound_to is not None:
        packed = bound_to.bytes
    elif services.settings.default_client is not None:
        packed = services.stores.identity(services.settings.default_client).packed
    else:
        raise bad_id("client_id", "client is required where the api key is bound to none")
    customer = _either(services, values, *CUSTOMER_FIELDS)
    if customer is None:
        raise bad_id("customer_id", "customer is required")
    return RedemptionRequest(name, batch_id, packed, client and client.text, customer)


def unknown_batch(request: RedemptionRequest) -> ProblemError:
    """Return the refusal of a batch that does not exist, by what the request calls it."""
    name = request.batch_name
    problem = outcome_problem(Outcome.UNKNOWN_BATCH)
    problem.detail = f"no batch {str(request.batch_id) if name is None else repr(name[:MAX_NAME])}"
    if name is not None:
        problem.detail += f" of the client {request.client_text or UUID(bytes=request.client)}"
    return problem


def _batch(named: object, given_id: object) -> tuple[str | None, UUID | None]:
    """Return the name and the id of the batch; one of them may be None."""
    batch_id = None if given_id is None else uuid_of(given_id, "batch_id")
    if named is None:
        if batch_id is None:
            raise bad_id("batch_id", "batch is required")
        return None, batch_id
    if not isinstance(named, str):
        raise bad_id("batch_id", "batch is a string")
    return batch_given(named, batch_id)


def _either(services: Services, values: Mapping[str, Any], name: str, id_name: str) -> Identity | None:
    """Return what one of two fields names, or both; None: neither does."""
    found = None
    for field in (name, id_name):
        value = values.get(field)
        if value is not None:
            identity = identify(services.stores, value, id_name)
            if found is not None and found.packed != identity.packed:
                raise invalid(f"{name} and {id_name} name two {name}s")
            found = identity
    return found

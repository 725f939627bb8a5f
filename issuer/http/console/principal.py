"""Who is signed in to the console: the bearer of a one-time link, of an API key, or of an operator's password.

A session stores who signed in, not what they may do: that is read in each request, so a key that is revoked and an
operator who is disabled are signed out at once.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from issuer.access.api_keys import ApiKey, Scope
from issuer.http.services import Services
from issuer.operators.operator import Operator, OperatorNotFoundError
from issuer.operators.role import Role
from issuer.operators.store import find_operator
from issuer.sessions.session_store import LoginSession


class SignedInBy(StrEnum):
    LINK = "link"
    KEY = "key"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """`actor`: the name in the audit log; `client_id` None: every client is seen; `key`: the one that signed in."""

    name: str
    actor: str
    role: Role
    client_id: UUID | None = None
    client_name: str | None = None
    key: ApiKey | None = None
    operator: Operator | None = None

    @property
    def has_first_password(self) -> bool:
        """Whether it is an operator that must choose a password before anything else."""
        return self.operator is not None and self.operator.initial_until is not None


LINK_NAME: Final = "One-time link"


def owner_of(kind: SignedInBy, subject: str | int | UUID) -> str:
    """Return the owner of a session, as it is stored."""
    return f"{kind}:{subject}"


async def read_principal(services: Services, session: LoginSession) -> Principal | None:
    """Return who is signed in by a session; None: not any more. Raises PostgresUnavailableError."""
    kind, _, subject = session.owner.partition(":")
    if kind == SignedInBy.LINK:
        return principal_of_link(subject)
    if kind == SignedInBy.OPERATOR:
        with suppress(OperatorNotFoundError):
            return principal_of_operator(await find_operator(services.stores.postgres, UUID(subject)))
        return None
    key = services.keys.get(int(subject)) if kind == SignedInBy.KEY and services.checks_keys else None
    return None if key is None else principal_of_key(key)


def principal_of_link(made_by: str) -> Principal:
    """Return who signs in with a link. `made_by`: who created it, as the audit log names actors."""
    return Principal(LINK_NAME, f"link:{made_by}", Role.ADMIN)


def principal_of_operator(operator: Operator) -> Principal:
    """Return who signs in with the password of an operator."""
    return Principal(
        operator.name, operator.actor, operator.role, operator.client_id, operator.client_name, operator=operator
    )


def principal_of_key(key: ApiKey) -> Principal | None:
    """Return who signs in with a key; None: it does not open the console, which takes the scope admin."""
    if Scope.ADMIN not in key.scopes:
        return None
    return Principal(key.name, key.actor, Role.ADMIN, key.client_id, key.client_name, key)

"""An operator: a person with a name and a password, a role, and perhaps one client as the limit of the view."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from issuer.instants import show_instant
from issuer.operators.role import Role


class InvalidOperatorError(ValueError):
    """The values of an operator are invalid; the message says why."""


class OperatorExistsError(Exception):
    """Another operator has this name."""

    def __init__(self) -> None:
        super().__init__("another operator has this name")


class OperatorNotFoundError(LookupError):
    """No operator has this id or name, or the operator is disabled."""

    def __init__(self) -> None:
        super().__init__("no operator found")


class WrongPasswordError(Exception):
    """Name and password do not fit together, or were tried too often. It is never said which."""


@dataclass(frozen=True, slots=True)
class Operator:
    """`client_id` None: every client is seen. `initial_until`: until when the first password is valid, which is changed
    at the sign-in; None: the operator has chosen one."""

    id: UUID
    name: str
    role: Role
    client_id: UUID | None
    client_name: str | None
    initial_until: datetime | None
    created_at: datetime
    disabled_at: datetime | None

    @property
    def actor(self) -> str:
        """The name in the audit log."""
        return f"operator:{self.id}:{self.name}"

    @property
    def owner(self) -> str:
        """The owner of the operator's sessions."""
        return f"operator:{self.id}"

    def to_json(self) -> dict[str, Any]:
        """Return the operator as the API and the command line show it."""
        return {
            "id": str(self.id),
            "name": self.name,
            "role": str(self.role),
            "client_id": None if self.client_id is None else str(self.client_id),
            "client_name": self.client_name,
            "initial_until": None if self.initial_until is None else show_instant(self.initial_until),
            "created_at": show_instant(self.created_at),
            "disabled_at": None if self.disabled_at is None else show_instant(self.disabled_at),
        }

"""Requests for objects of another client, and the response that each must get."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Expected(Enum):
    """The expected response. In any case it must not contain anything of the other client."""

    REFUSED = "404 or 403; the same request succeeds with the key of the operator"
    SILENT = "200, with objects of the caller only"
    PUBLIC = "200, without a key"
    OWN = "2xx; creates an object, and changes nothing of the other client"


REFUSED, SILENT, PUBLIC, OWN = Expected


@dataclass(frozen=True)
class Visit:
    """One request. Attributes of the world in braces are filled in; `file` is uploaded, `form` is sent as one."""

    expected: Expected
    path: str
    query: dict[str, str] = field(default_factory=dict)
    json: dict[str, Any] | None = None
    file: str = ""
    form: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    """Whether a permitted request has a response without an end."""

    @property
    def names_shared(self) -> bool:
        """Whether it is for an object in which the caller has a part, so that it may know that the object exists."""
        return "{shared}" in self.path or "{shared}" in str(self.json)

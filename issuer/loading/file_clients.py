"""The clients of a file of codes: whose rows it has, by the ids that the file spells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.ids import Identity
from issuer.loading.errors import CodeFileError

MAX_CLIENTS: Final = 10_000
"""Clients of one file; each has a pool."""
_MAX_SPELLINGS: Final = 2 * MAX_CLIENTS


class TooManyClientsError(CodeFileError):
    """The file has more than MAX_CLIENTS clients."""


class OtherClientError(ValueError):
    """The row is not of the client whose codes are being loaded."""


class NoClientError(ValueError):
    """The row names no client, and there is none for such rows."""


@dataclass(slots=True)
class FileClient:
    """A client of the file: its index in `ids`, and the number of its rows that were accepted."""

    index: int
    count: int = 0


class FileClients:
    """The clients of one file, numbered as they appear.

    `only`: rows of other clients are refused. `default`: the client of rows that name none; with `only` it is that one.
    """

    def __init__(
        self, identify: Callable[[str], Identity], *, only: UUID | None = None, default: UUID | None = None
    ) -> None:
        self.ids: list[UUID] = []
        self.texts: dict[UUID, str] = {}
        """The clients that the file names by a text. They must be registered, unless the file may have one client."""
        self._identify = identify
        self._only = only
        self._default = only or default
        self.given_default = None if only is not None else default
        """The client that rows without one get because there is no better one, not because the caller named it."""
        self._known: dict[UUID, FileClient] = {}
        self._spellings: dict[bytes, FileClient] = {}
        self.recall: Callable[[bytes], FileClient | None] = self._spellings.get
        """Return the client that the file has spelled like this before. Costs no Python call."""

    @property
    def has_default(self) -> bool:
        """Whether rows need not name a client."""
        return self._default is not None

    @property
    def default(self) -> FileClient | None:
        """The client of rows that name none, if there was one such row."""
        return None if self._default is None else self._known.get(self._default)

    def identity(self, client_id: UUID) -> Identity:
        """Return a client that the file names by a text, with that text."""
        return Identity(client_id.bytes, self.texts[client_id])

    def find(self, text: str) -> Identity:
        """Return the client of a row. Raises InvalidIdError, NoClientError, OtherClientError."""
        if not text:
            if self._default is None:
                raise NoClientError("the row names no client")
            return Identity(self._default.bytes, None)
        identity = self._identify(text)
        if self._only not in (None, identity.uuid):
            raise OtherClientError("the row is of another client")
        return identity

    def add(self, identity: Identity, spelled: str | None) -> FileClient:
        """Return the client for its next row; number it if this is its first one. Raises TooManyClientsError.

        `spelled`: what `recall` is to know the client by.
        """
        client_id = identity.uuid
        client = self._known.get(client_id)
        if client is None:
            if len(self.ids) == MAX_CLIENTS:
                raise TooManyClientsError(f"more than {MAX_CLIENTS:,} clients in one file")
            client = self._known[client_id] = FileClient(len(self.ids))
            self.ids.append(client_id)
            if identity.text is not None and self._only is None:
                self.texts[client_id] = identity.text
        if spelled is not None and len(self._spellings) < _MAX_SPELLINGS:
            self._spellings[spelled.encode("utf-8", "surrogateescape")] = client
        return client

"""Connections that are counted by the address of their peer."""

from __future__ import annotations

from typing import ClassVar, Protocol

from issuer.http.edge.asgi_cycle import ServedCycles
from issuer.http.edge.limits import TOO_MANY_CONNECTIONS, TOO_MANY_OF_ADDRESS


class AddressLimit(Protocol):
    """The limit of connections by address. `peer`: the address of the peer; None: a socket without addresses."""

    def take(self, peer: str | None) -> bool:
        """Count a new connection. False: the address has too many."""
        ...

    def release(self, peer: str | None) -> None:
        """Note the end of a connection for which `take` returned True."""
        ...

    def note_full(self) -> None:
        """Note a connection that was refused because there are too many in all."""
        ...


class CountedConnection(ServedCycles):
    """HttpToolsProtocol with an AddressLimit, which is asked by `admission` and notes the end."""

    by_address: ClassVar[AddressLimit | None] = None
    _is_counted = False

    def admission(self, max_connections: int) -> bytes | None:
        """Count a new connection. Returns the refusal if there are too many; None: it is admitted."""
        by_address = self.by_address
        if len(self.connections) > max_connections:
            if by_address is not None:
                by_address.note_full()
            return TOO_MANY_CONNECTIONS
        if by_address is None:
            return None
        self._is_counted = by_address.take(self._peer)
        return None if self._is_counted else TOO_MANY_OF_ADDRESS

    def make_room(self, max_connections: int) -> None:
        """Close a refused connection at once where most places are taken.

        Refused ones that linger are connections, too: those of one address must not take the places of all others.
        """
        if 2 * len(self.connections) > max_connections:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._is_counted and self.by_address is not None:
            self._is_counted = False
            self.by_address.release(self._peer)

    @property
    def _peer(self) -> str | None:
        return None if self.client is None else self.client[0]

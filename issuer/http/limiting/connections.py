"""The connections of each address to one API process."""

from __future__ import annotations

from issuer.http.edge.client_address import Proxies
from issuer.http.limiting.fair_slots import CountRefusal, FairSlots, Tenant
from issuer.http.slot_kinds import SlotKind, SlotRefusal
from issuer.networks import counted_as, parse_networks
from issuer.settings import Settings


class ConnectionsByAddress:
    """The guard's limit of connections by address (`issuer.http.edge.counted_connection.AddressLimit`).

    Trusted proxies are exempt: their connections carry the requests of many clients, and they bound these themselves.
    """

    def __init__(self, settings: Settings, count: CountRefusal) -> None:
        self._is_proxy = Proxies(parse_networks(settings.trusted_proxies)).trusts
        self._count = count
        self._slots = FairSlots(
            SlotKind.CONNECTIONS,
            settings.max_connections,
            count,
            per_tenant=settings.max_connections_per_address,
        )

    def take(self, peer: str | None) -> bool:
        """Count a new connection, to be released when it ends. False: its address has too many."""
        tenant = self._tenant(peer)
        return tenant is None or self._slots.try_take(tenant) is None

    def release(self, peer: str | None) -> None:
        """Note the end of a connection for which `take` returned True."""
        tenant = self._tenant(peer)
        if tenant is not None:
            self._slots.release(tenant)

    def note_full(self) -> None:
        """Count a connection that was refused because the process has too many."""
        self._count(SlotKind.CONNECTIONS, SlotRefusal.FULL)

    def _tenant(self, peer: str | None) -> Tenant | None:
        return None if peer is None or self._is_proxy(peer) else (counted_as(peer),)

"""The address of a client: that of the peer, or the one that trusted proxies report.

Each proxy appends the address from which it was called. So the list is read from the right: what a trusted proxy
appended is believed, and the first address that does not belong to a trusted proxy is the client's. Everything further
to the left was sent by the client, which can write there anything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from issuer.http.edge.header_fields import Headers
from issuer.networks import Network, counted_as, parse_address

UNKNOWN: Final = "unknown"
MAX_HOPS: Final = 32


class Proxies:
    """The trusted proxies."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks
        # By text: an address is parsed once, not with every request.
        self.trusts = lru_cache(maxsize=4_096)(self._trusts)

    def _trusts(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)

    def address_of(self, peer: str | None, headers: Headers) -> str:
        """Return what limits count for a request from `peer`. Header names are in lower case."""
        if peer is None:
            return UNKNOWN
        if not self.trusts(peer):
            return counted_as(peer)
        plain: list[str] = []
        standard: list[str] = []
        for name, value in headers:
            if name == b"x-forwarded-for":
                plain += value.decode("latin-1").split(",")
            elif name == b"forwarded":
                standard += [_forwarded_for(element) for element in value.decode("latin-1").split(",")]
        if not plain and not standard:
            return counted_as(peer)
        reported = {self._client(peer, hops) for hops in (plain, standard) if hops}
        # A proxy sets one of the two headers and passes the other one on as the client sent it. Which one is unknown.
        return counted_as(reported.pop() if len(reported) == 1 else peer)

    def _client(self, peer: str, hops: list[str]) -> str:
        """Return the address that is nearest to the server and not that of a trusted proxy."""
        nearest = peer
        for hop in reversed(hops[-MAX_HOPS:]):
            address = parse_address(hop)
            if address is None:
                # Hidden or broken: the proxy that wrote it is counted instead.
                return nearest
            nearest = str(address)
            if not self.trusts(nearest):
                return nearest
        return nearest


def _forwarded_for(element: str) -> str:
    """Return the node of `for=` in one element of a Forwarded header (RFC 7239); empty if there is none."""
    for pair in element.split(";"):
        name, _, node = pair.strip().partition("=")
        if name.lower() == "for":
            return node
    return ""

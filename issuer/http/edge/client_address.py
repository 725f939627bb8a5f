"""Whose request it is, by address: the peer's, or what proxies that are believed say of it.

Each proxy adds the address that it was called from at the right end. So the list is read from the right: what a
trusted proxy added is believed, and the first address that is not a trusted proxy's is the client's. All further to the
left was sent by the client, who may write there what he likes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from issuer.networks import Network, counted_as, parse_address

Headers = Iterable[tuple[bytes, bytes]]

UNKNOWN: Final = "unknown"
MAX_HOPS: Final = 32


class Proxies:
    """The proxies that are believed."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks
        # By text, so that an address is parsed once and not with every request.
        self.trusts = lru_cache(maxsize=4_096)(self._trusts)

    def _trusts(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)

    def address_of(self, peer: str | None, headers: Headers) -> str:
        """What limits count for a request that came from `peer`. Header names are in lower case."""
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
        said = {self._client(peer, hops) for hops in (plain, standard) if hops}
        # A proxy sets one of the two and passes on what the client sent as the other: this process cannot know which.
        return counted_as(said.pop() if len(said) == 1 else peer)

    def _client(self, peer: str, hops: list[str]) -> str:
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
    """The node of `for=` in one element of a Forwarded header (RFC 7239); empty if there is none."""
    for pair in element.split(";"):
        name, _, node = pair.strip().partition("=")
        if name.lower() == "for":
            return node
    return ""

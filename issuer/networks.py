"""IP addresses as rate limits count them, and the networks of trusted proxies."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

IPV6_PREFIX: Final = 64
"""A household or a server has a whole /64, so its addresses count as one."""
_ALL: Final = ("0.0.0.0/0", "::/0")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse comma-separated addresses and networks, `none`, or `*` for all. Raises ValueError with the bad item."""
    if text.strip() == "none":
        return ()
    items = _ALL if text.strip() == "*" else text.split(",")
    networks = []
    for item in items:
        try:
            networks.append(ip_network(item.strip()))
        except ValueError as error:
            raise ValueError(f"must be addresses and networks, comma-separated, `none` or `*`: {error}") from None
    return tuple(networks)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address; ignore port, brackets and zone. IPv4 inside IPv6 is IPv4. None: it is not an address."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=65_536)
def counted_as(text: str) -> str:
    """Return what a limit counts: the IPv4 address, the /64 of an IPv6 address, or the text if it is neither."""
    address = parse_address(text)
    if address is None:
        return text
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX), strict=False))
    return str(address)

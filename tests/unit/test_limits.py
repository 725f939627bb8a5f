"""The text form of rate limits, and the client address of a request."""

from __future__ import annotations

import pytest

from issuer.http.edge.client_address import Proxies
from issuer.networks import counted_as, parse_networks
from issuer.rate_limit import InvalidRateLimitError, RateLimit, parse_limit
from issuer.settings import SettingsError, load_settings

PROXIES = Proxies(parse_networks("10.0.0.0/8, fd00::/8"))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("100/s", RateLimit(100, 1, 100)),
        ("6000/m", RateLimit(6_000, 60, 6_000)),
        ("5/h", RateLimit(5, 3_600, 5)),
        ("1/d,burst=3", RateLimit(1, 86_400, 3)),
        ("off", None),
    ],
)
def test_a_limit_is_parsed(text: str, limit: RateLimit | None) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "0/s", "1/s,burst=0", "1/w", "-1/s", "1.5/s", "٣/s", "1000001/s", "OFF", "1/s, "])
def test_an_invalid_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRateLimitError):
        parse_limit(text)
    if text:
        monkeypatch.setenv("ISSUER_RATE_LIMIT", text)
        with pytest.raises(SettingsError, match="ISSUER_RATE_LIMIT: "):
            load_settings()


def test_the_limit_of_addresses_defaults_to_that_of_keys() -> None:
    assert load_settings(rate_limit="7/s").address_limit == RateLimit(7, 1, 7)
    settings = load_settings(rate_limit="7/s", rate_limit_ip="off")
    assert (settings.key_limit, settings.address_limit) == (RateLimit(7, 1, 7), None)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "localhost", "10.0.0.1,", "10.0.0.1/8"])
def test_invalid_proxies_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="ISSUER_TRUSTED_PROXIES: "):
        load_settings(trusted_proxies=text)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_address_is_counted_with_its_network(text: str, counted: str) -> None:
    assert counted_as(text) == counted


def headers(*lines: str) -> list[tuple[bytes, bytes]]:
    pairs = (line.partition(": ") for line in lines)
    return [(name.lower().encode(), value.encode("latin-1")) for name, _, value in pairs]


@pytest.mark.parametrize(
    ("peer", "lines", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        # Headers of a peer that is not a proxy are ignored.
        ("192.0.2.1", ["X-Forwarded-For: 198.51.100.9"], "192.0.2.1"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        # Entries further to the left can be forged by the client.
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5, 198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5, 198.51.100.9, 10.1.1.1"], "198.51.100.9"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["X-Forwarded-For: 10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.9:4711"], "198.51.100.9"),
        ("10.0.0.1", ["X-Forwarded-For: 203.0.113.5, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["X-Forwarded-For: "], "10.0.0.1"),
        ("10.0.0.1", ['Forwarded: for="[2001:db8::1]:4711";proto=https'], "2001:db8::/64"),
        ("10.0.0.1", ["Forwarded: for=203.0.113.5, proto=http;For=198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["Forwarded: for=203.0.113.5, for=_hidden"], "10.0.0.1"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.9", "Forwarded: for=198.51.100.9"], "198.51.100.9"),
        # One of the two headers was sent by the client.
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.9", "Forwarded: for=203.0.113.5"], "10.0.0.1"),
        ("fd00::1", ["X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        (None, ["X-Forwarded-For: 198.51.100.9"], "unknown"),
    ],
)
def test_the_rightmost_address_that_is_not_a_proxy_is_the_clients(
    peer: str | None, lines: list[str], address: str
) -> None:
    assert PROXIES.address_of(peer, headers(*lines)) == address


def test_all_or_no_peers_can_be_trusted() -> None:
    forwarded = headers("X-Forwarded-For: 198.51.100.9")
    assert Proxies(parse_networks("*")).address_of("192.0.2.1", forwarded) == "198.51.100.9"
    assert Proxies(parse_networks("none")).address_of("127.0.0.1", forwarded) == "127.0.0.1"

"""The server that sends mail, and the addresses of a message, as settings write them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from enum import StrEnum
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import idna

from issuer.server_urls import check_server_url

SCHEMES: Final = ("smtp", "smtps")
MAX_ADDRESS: Final = 254
"""The longest address that SMTP can carry (RFC 5321, errata 1690)."""
_PORTS: Final = {"smtp": 587, "smtps": 465}
_STARTTLS: Final = {"on": True, "off": False}
# What mail servers accept of RFC 5321: dot-atoms, no quoted texts and no address literals.
_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAILBOX: Final = re.compile(r"(?:(?P<name>[^<>\"]*)<(?P<inner>[^<>\s]+)>|(?P<bare>[^<>\s]+))")


class Tls(StrEnum):
    """How a connection is encrypted: from its start, before the login (STARTTLS, or no mail is sent), or not."""

    IMPLICIT = "implicit"
    STARTTLS = "starttls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MailServer:
    """A server that takes mail. Its password is in no repr."""

    host: str
    port: int
    tls: Tls
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_mail_server(url: str) -> MailServer:
    """Parse `smtp://` or `smtps://`. Raises ValueError, whose message has no part of the URL.

    With smtp:// the connection is encrypted by STARTTLS, except to this host or with `?starttls=off`. A password is
    never sent unencrypted to another host.
    """
    check_server_url(url, SCHEMES)
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    starttls = options.pop("starttls", None)
    if not parts.hostname or "," in parts.netloc.rpartition("@")[2] or parts.path not in ("", "/"):
        raise ValueError("must name one host, such as smtp://mail.example:587")
    if options or (starttls is not None and (parts.scheme != "smtp" or starttls not in _STARTTLS)):
        raise ValueError("has an option that is not known; known is starttls=off, with smtp:// only")
    is_own = _is_this_host(parts.hostname)
    if parts.scheme == "smtps":
        tls = Tls.IMPLICIT
    else:
        tls = Tls.STARTTLS if _STARTTLS.get(starttls or "", not is_own) else Tls.NONE
    if (parts.username or None) is None and parts.password is not None:
        raise ValueError("has a password without a user")
    if parts.password is not None and tls is Tls.NONE and not is_own:
        raise ValueError("would send its password unencrypted: leave starttls=off out")
    return MailServer(
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        tls,
        unquote(parts.username) if parts.username else None,
        None if parts.password is None else unquote(parts.password),
    )


def ascii_domain(text: str) -> str | None:
    """Return a domain as mail servers and DNS know it, in ASCII (IDNA 2008); None: it is none.

    All spellings that a browser takes for one domain have one form. straße.de is not strasse.de, as it was in IDNA
    2003: they have different owners.
    """
    if len(text) > MAX_ADDRESS:
        return None
    domain = text
    if not text.isascii():
        try:
            domain = idna.encode(text, uts46=True).decode()
        except UnicodeError:
            return None
    return None if _DOMAIN.fullmatch(domain) is None else domain


def parse_email(text: str) -> str | None:
    """Return an e-mail address in the form that mail servers accept, its domain in ASCII; None: it is none."""
    local, at, given = text.rpartition("@")
    if not at or len(text) > MAX_ADDRESS or len(local) > 64:
        return None
    domain = ascii_domain(given)
    if domain is None or _LOCAL.fullmatch(local) is None or len(local) + len(domain) >= MAX_ADDRESS:
        return None
    return f"{local}@{domain}"


def parse_mailbox(text: str) -> Address:
    """Parse `points@shop.example` or `The Shop <points@shop.example>`. Raises ValueError."""
    found = _MAILBOX.fullmatch(text.strip())
    address = None if found is None else parse_email(found["inner"] or found["bare"])
    if found is None or address is None or not text.isprintable():
        raise ValueError("must be an address, such as points@shop.example or The Shop <points@shop.example>")
    try:
        return Address((found["name"] or "").strip(), addr_spec=address)
    except (MessageError, ValueError) as error:
        raise ValueError("is not an address that a message can carry") from error


def _is_this_host(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"

"""Members: people with an account. What a request or a command says about one is checked here.

No message and no representation quotes e-mail, phone or name: both may end up in a log.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from babel import Locale, UnknownLocaleError

from issuer.ids import InvalidIdError, id_text, parse_uuid
from issuer.instants import show_instant
from issuer.mail_server import MAX_ADDRESS, ascii_domain
from issuer.names import first_unseen, name_problem, trimmed

_MAX_LOCAL_PART: Final = 64
_EMAIL: Final = re.compile(r"[^\s@,;:<>()\[\]\\\"]+@[^\s@,;:<>()\[\]\\\"_]+")
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
_PHONE_MARKS: Final = re.compile(r"[ ()./\u00a0\u2010\u2011-]")
_LOCALE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}", re.ASCII)


class MemberNotFoundError(LookupError):
    """The program has no such member."""

    def __init__(self) -> None:
        super().__init__("no member found")


class MemberExistsError(Exception):
    """Another member of the client has this `ref` or `email`. `member_id`: which one, if that is known."""

    def __init__(self, name: str, member_id: UUID | None = None) -> None:
        super().__init__(f"another member has this {name}")
        self.member_id = member_id


class InvalidMemberError(ValueError):
    """A value of a member is invalid; the message names the field and never quotes it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A person of a client. `marketing_at`: when `marketing` was last said. An erased one has no personal data."""

    id: UUID
    client_id: UUID
    ref: str | None = field(repr=False)
    email: str | None = field(repr=False)
    phone: str | None = field(repr=False)
    name: str | None = field(repr=False)
    locale: str | None
    marketing: bool
    marketing_at: datetime | None
    merged_into: UUID | None
    erased_at: datetime | None
    created_at: datetime

    @property
    def customer(self) -> str:
        """The id of the customer to whom codes are issued that the member takes."""
        return self.ref or str(self.id)

    def to_json(self) -> dict[str, Any]:
        """Return the member as the API and the command line show it."""
        return {
            "id": str(self.id),
            "ref": self.ref,
            "email": self.email,
            "phone": self.phone,
            "name": self.name,
            "locale": self.locale,
            "marketing": self.marketing,
            "marketing_at": None if self.marketing_at is None else show_instant(self.marketing_at),
            "erased_at": None if self.erased_at is None else show_instant(self.erased_at),
            "created_at": show_instant(self.created_at),
        }


def member_from_row(row: asyncpg.Record) -> Member:
    """Return the member of a row that has the columns of `members`."""
    return Member(
        UUID(bytes=row["id"].bytes), UUID(bytes=row["client_id"].bytes), row["ref"], row["email"], row["phone"],
        row["name"], row["locale"], row["marketing"], row["marketing_at"],
        None if row["merged_into"] is None else UUID(bytes=row["merged_into"].bytes), row["erased_at"],
        row["created_at"],
    )  # fmt: skip


def parse_ref(text: str) -> str:
    """Return a caller's own id of a member. Raises InvalidMemberError."""
    try:
        ref = id_text(text)
    except InvalidIdError as error:
        raise InvalidMemberError(f"ref: {error}") from error
    if parse_uuid(ref) is not None:
        raise InvalidMemberError("ref must not have the form of a UUID: it would be taken for an id")
    return ref


def parse_email(text: str) -> str:
    """Return an e-mail address as it is stored and as mail is sent to it: trimmed, in NFC, its domain in ASCII.

    Raises InvalidMemberError.
    """
    given = unicodedata.normalize("NFC", trimmed(text))
    local, _, given_domain = given.partition("@")
    is_address = (
        len(given) <= MAX_ADDRESS
        and _EMAIL.fullmatch(given) is not None
        and first_unseen(given, spaces=True) is None
        and len(local) <= _MAX_LOCAL_PART
        and all(local.split("."))
    )
    domain = ascii_domain(given_domain) if is_address else None
    email = f"{local}@{domain}"
    if domain is None or len(email) > MAX_ADDRESS:
        raise InvalidMemberError("email must be an address such as anna@example.org")
    return email


def fold_email(email: str) -> str:
    """Return the form by which a client has an address once: in NFC, without case, its domain in ASCII.

    What is no address, or the beginning of one, has such a form too. Not `casefold`, which makes one of the mailboxes
    straße@… and strasse@….
    """
    local, at, domain = unicodedata.normalize("NFC", trimmed(email)).partition("@")
    return unicodedata.normalize("NFC", f"{local}{at}{ascii_domain(domain) or domain}".lower())


def parse_phone(text: str) -> str:
    """Return a phone number in the form of E.164: + and its digits. Raises InvalidMemberError.

    00 is read as +. A number without the code of its country is refused: what it means depends on the reader.
    """
    digits = _PHONE_MARKS.sub("", text.strip())
    if digits.startswith("00"):
        digits = f"+{digits[2:]}"
    if _PHONE.fullmatch(digits) is None:
        raise InvalidMemberError("phone must be a number with the code of its country, such as +44 20 7946 0958")
    return digits


def parse_name(text: str) -> str:
    """Return the name of a person, in NFC. Raises InvalidMemberError."""
    name = unicodedata.normalize("NFC", trimmed(text))
    problem = name_problem(name)
    if problem is not None:
        raise InvalidMemberError(problem)
    return name


def parse_locale(text: str) -> str:
    """Return a language tag in its usual case, such as de-AT. Raises InvalidMemberError."""
    try:
        if _LOCALE.fullmatch(text) is None:
            raise ValueError("not a language tag")
        return str(Locale.parse(text, sep="-")).replace("_", "-")
    except (ValueError, UnknownLocaleError) as error:
        raise InvalidMemberError("locale must be the tag of a language, such as en or de-AT") from error


_TEXTS: Final[dict[str, Callable[[str], str]]] = {
    "ref": parse_ref,
    "email": parse_email,
    "phone": parse_phone,
    "name": parse_name,
    "locale": parse_locale,
}
MEMBER_FIELDS: Final = (*_TEXTS, "marketing")
"""What a request or a command may say about a member."""


def member_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that the given fields set; null removes a value. Raises InvalidMemberError."""
    columns: dict[str, Any] = {}
    for name, parse in _TEXTS.items():
        if name in values:
            value = values[name]
            if value is not None and not isinstance(value, str):
                raise InvalidMemberError(f"{name} must be a string")
            columns[name] = None if value is None else parse(value)
    if "email" in columns:
        columns["email_folded"] = None if columns["email"] is None else fold_email(columns["email"])
    if "marketing" in values:
        if not isinstance(values["marketing"], bool):
            raise InvalidMemberError("marketing must be true or false")
        columns["marketing"] = values["marketing"]
    return columns

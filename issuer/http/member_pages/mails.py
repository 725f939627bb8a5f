"""The mails of the member pages. Their texts are templates with message catalogues, as those of the pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from issuer.http.pages.languages import LANGUAGES
from issuer.http.pages.templates import template
from issuer.loyalty.member import Member
from issuer.mail.message import Mail
from issuer.mail_server import parse_email
from issuer.sessions.login_tokens import LIFETIME

MINUTES: Final = LIFETIME // timedelta(minutes=1)


def language_of_member(member: Member | None, language: str) -> str:
    """Return the language in which a member gets mail: the member's own, or that of the page."""
    own = None if member is None or member.locale is None else member.locale.partition("-")[0]
    return own if own in LANGUAGES else language


def make_mail(kind: str, to: str, language: str, **values: Any) -> Mail | None:
    """Return the mail of `KIND_mail.txt`, whose first line is the subject, and `KIND_mail.html`.

    None: no mail server would take the address.
    """
    address = parse_email(to)
    values |= {"lang": language, "minutes": MINUTES}
    subject, _, text = template(f"member_pages/{kind}_mail.txt", language).render(values).partition("\n")
    html = template(f"member_pages/{kind}_mail.html", language).render(values)
    # A name with a line end cannot be stored; a subject has none in any case.
    subject = " ".join(subject.split())
    return None if address is None else Mail(kind, address, subject, f"{text.strip()}\n", html, language)

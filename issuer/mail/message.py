"""One message to one person, as text and as HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import localtime, make_msgid


@dataclass(frozen=True, slots=True)
class Mail:
    """A message before it is addressed by a sender. `kind`: what logs call it. The person's address is in no repr."""

    kind: str
    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    language: str = "en"


def build_message(mail: Mail, sender: Address, reply_to: Address | None) -> EmailMessage:
    """Return the message. Raises ValueError for a value that would be more than one header."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = Address(addr_spec=mail.to)
    if reply_to is not None:
        message["Reply-To"] = reply_to
    message["Subject"] = mail.subject
    message["Date"] = localtime()
    # With the domain of the sender: the default is the name of this host.
    message["Message-ID"] = make_msgid(domain=sender.domain)
    # RFC 3834: no machine answers a machine.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    message.add_alternative(mail.html, subtype="html")
    message["Content-Language"] = mail.language
    return message

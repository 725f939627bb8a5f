"""Mail servers and addresses as settings write them, and the form of a message."""

from __future__ import annotations

from email.headerregistry import Address

import pytest

from issuer.mail.message import Mail, build_message
from issuer.mail_server import MailServer, Tls, parse_email, parse_mail_server, parse_mailbox
from issuer.settings import SettingsError, load_settings


def test_a_mail_server_is_encrypted_unless_it_is_this_host_or_the_operator_says_so() -> None:
    assert parse_mail_server("smtp://me:p%40ss@mail.example") == MailServer(
        "mail.example", 587, Tls.STARTTLS, "me", "p@ss"
    )
    assert parse_mail_server("smtps://mail.example") == MailServer("mail.example", 465, Tls.IMPLICIT)
    assert parse_mail_server("smtp://mail.example:25?starttls=off") == MailServer("mail.example", 25, Tls.NONE)
    assert parse_mail_server("smtp://u:p@localhost:25").tls is Tls.NONE
    assert parse_mail_server("smtp://[::1]:25").tls is Tls.NONE
    assert parse_mail_server("smtp://localhost?starttls=on").tls is Tls.STARTTLS
    assert "p@ss" not in repr(parse_mail_server("smtp://me:p%40ss@mail.example"))


@pytest.mark.parametrize(
    "url",
    [
        "http://mail.example", "smtp://", "smtp://a,b", "smtp://mail.example/x", "smtp://:secret@mail.example",
        "smtps://mail.example?starttls=off", "smtp://mail.example?starttls=maybe", "smtp://mail.example?tls=no",
        "smtp://me:secret@mail.example?starttls=off", "smtp://me:sec/ret@mail.example", "smtp://mail.example:99999",
    ],
)  # fmt: skip
def test_a_bad_mail_server_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_mail_server(url)
    assert "sec" not in str(raised.value)


def test_addresses_are_those_that_mail_servers_accept() -> None:
    accepted = ["a@b", "Ann.Lee+x@shop.example", "o'neil@a-b.example"]
    assert [parse_email(text) for text in accepted] == accepted
    assert parse_email("ann@müller.example") == "ann@xn--mller-kva.example"
    # Not strasse.de, which it was in IDNA 2003.
    assert parse_email("ann@straße.de") == "ann@xn--strae-oqa.de"
    refused = ["", "a", "@b", "a@", "a b@c", "a@b c", "a@b\r\nBcc: x@y", "a\n@b", "a..b@c", ".a@b", "a@-b", "a@b..c"]
    refused += ["a@b@c,d@e", "<a@b>", "ä@b", f"{'a' * 65}@b", f"a@{'b.' * 130}c", "a@[127.0.0.1]", '"a"@b', "a@b."]
    assert [text for text in refused if parse_email(text) is not None] == []


def test_settings_name_what_is_wrong_with_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUER_SMTP_URL", "smtp://me:topsecret@mail.example")
    with pytest.raises(SettingsError, match=r"\AISSUER_MAIL_FROM: is needed with ISSUER_SMTP_URL\Z"):
        load_settings()
    monkeypatch.setenv("ISSUER_MAIL_FROM", "The Shop <points@shop.example>")
    monkeypatch.setenv("ISSUER_MAIL_REPLY_TO", "help@shop.example\nBcc: x@y.example")
    with pytest.raises(SettingsError, match=r"\AISSUER_MAIL_REPLY_TO: must be an address"):
        load_settings()
    monkeypatch.setenv("ISSUER_MAIL_REPLY_TO", "help@shop.example")
    settings = load_settings()
    assert settings.mail_sender == Address("The Shop", addr_spec="points@shop.example")
    assert settings.mail_server is not None
    assert settings.mail_server.password == "topsecret"
    assert "topsecret" not in f"{settings!r} {settings.mail_server}"


def mail(**changes: str) -> Mail:
    values = {"kind": "login", "to": "ann@shop.example", "subject": "Code für 2", "text": "a\n", "html": "<p>a</p>"}
    return Mail(**values | changes)


def test_a_message_has_both_forms_and_no_value_can_be_a_header() -> None:
    sender, reply_to = parse_mailbox("Café <points@shop.example>"), parse_mailbox("help@shop.example")
    message = build_message(mail(language="de"), sender, reply_to)
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert (message["To"], message["Reply-To"]) == ("ann@shop.example", "help@shop.example")
    assert message["Subject"] == "Code für 2"
    assert message["From"] == "Café <points@shop.example>"
    assert (message["Auto-Submitted"], message["Content-Language"]) == ("auto-generated", "de")
    assert message["Message-ID"].endswith("@shop.example>")
    for bad in ({"subject": "Hi\r\nBcc: x@y.example"}, {"to": "a@b.example\r\nBcc: x@y"}, {"language": "en\nX: y"}):
        with pytest.raises(ValueError, match=r"."):
            build_message(mail(**bad), sender, reply_to)
    assert "ann" not in repr(mail())

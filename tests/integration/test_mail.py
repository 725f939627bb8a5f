"""The queue of mail against a real SMTP server: encryption, login, refusals, and what is logged of them."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import MutableMapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from issuer.mail import mailer as mailer_module
from issuer.mail.mailer import Mailer
from issuer.mail.message import Mail
from issuer.settings import Settings
from tests.support.mail_server import TestMailServer
from tests.support.programs import require

MAIL = Mail("login", "ann@shop.example", "Your code", "Your code is 123456.\n", "<p>Your code is 123456.</p>")


def mail_settings(server: TestMailServer, **changes: Any) -> Settings:
    url = changes.pop("url", f"smtp://127.0.0.1:{server.port}")
    return Settings(smtp_url=SecretStr(url), mail_from="The Shop <points@shop.example>", **changes)


async def deliver(settings: Settings, *mails: Mail) -> list[MutableMapping[str, Any]]:
    """Send, and return what was logged."""
    mailer = Mailer(settings)
    with capture_logs() as logs:
        mailer.start()
        for mail in mails:
            mailer.post(mail)
        await mailer.settled()
        await mailer.aclose()
    return logs


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer_module, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a server whose certificate this process trusts."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    options = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    options += " -addext subjectAltName=DNS:localhost"
    command = [str(require("openssl")), "req", "-x509", *options.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def test_a_message_arrives_in_both_forms() -> None:
    with TestMailServer() as server:
        assert await deliver(mail_settings(server, mail_reply_to="help@shop.example"), MAIL) == []
        (sender, recipients, message) = server.messages[0]
    assert (sender, recipients) == ("points@shop.example", ["ann@shop.example"])
    assert isinstance(message, EmailMessage)
    assert message["Reply-To"] == "help@shop.example"
    forms = {part.get_content_type(): part.get_content().replace("\r\n", "\n") for part in message.iter_parts()}
    assert forms == {"text/plain": "Your code is 123456.\n", "text/html": "<p>Your code is 123456.</p>\n"}


async def test_the_password_is_sent_behind_starttls_only(certificate: ssl.SSLContext) -> None:
    with TestMailServer(starttls=certificate, login=("me", "p@ss/word")) as server:
        url = f"smtp://me:p%40ss%2Fword@localhost:{server.port}?starttls=on"
        assert await deliver(mail_settings(server, url=url), MAIL) == []
        assert len(server.messages) == 1
        wrong = await deliver(mail_settings(server, url=url.replace("p%40ss", "wrong")), MAIL)
        assert [(line["event"], line["status"]) for line in wrong] == [("mail not sent", 535)]
        assert "wrong" not in str(wrong)
    with TestMailServer() as plain:
        # A server, or what stands before it, that offers no encryption gets neither password nor message.
        url = f"smtp://me:p%40ss@localhost:{plain.port}?starttls=on"
        lines = await deliver(mail_settings(plain, url=url), MAIL)
        assert [(line["event"], line["reason"]) for line in lines] == [("mail not sent", "SMTPException")]
        assert plain.messages == []
        assert plain.seen_passwords == []


async def test_refusals_are_logged_without_the_address_and_retried_where_they_may_pass() -> None:
    with TestMailServer() as server:
        settings = mail_settings(server)
        server.replies = ["451 ann@shop.example is greylisted"]
        lines = await deliver(settings, MAIL)
        assert [(line["event"], line["status"]) for line in lines] == [("mail not sent yet", 451)]
        assert len(server.messages) == 1
        server.replies = ["550 no such user: ann@shop.example"]
        lines += await deliver(settings, MAIL)
        assert [line["event"] for line in lines[1:]] == ["mail not sent"]
        # A message that cannot be built ends the sending of no other.
        lines += await deliver(settings, Mail("login", "x\r\n@y", "s", "t", "h"), MAIL)
        assert len(server.messages) == 2
    lines += await deliver(settings, MAIL)
    assert [line["event"] for line in lines[3:]] == ["mail not sent yet", "mail not sent yet", "mail not sent"]
    assert "ann" not in str(lines)


async def test_a_full_queue_drops_and_a_stopping_process_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer_module, "MAX_WAITING", 2)
    monkeypatch.setattr(mailer_module, "DRAIN_LIMIT_S", 0.05)
    with TestMailServer() as server:
        mailer = Mailer(mail_settings(server))
        with capture_logs() as logs:
            # Not started: nothing leaves the queue.
            assert [mailer.post(MAIL) for _ in range(3)] == [True, True, False]
            await mailer.aclose()
    assert [line["event"] for line in logs] == ["mail dropped: too many messages wait", "mail lost: the process stops"]

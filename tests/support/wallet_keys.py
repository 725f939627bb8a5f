"""Certificates and keys as Apple and Google issue them for wallets, made by the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class WalletKeys:
    """Files: the certificate of a pass type with its key, Apple's two certificates above it, a service account."""

    certificate: Path
    key: Path
    intermediate: Path
    root: Path
    account: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that name all of them."""
        return {
            "apple_pass_certificate": self.certificate,
            "apple_pass_key": self.key,
            "apple_intermediate_certificate": self.intermediate,
            "google_wallet_key": self.account,
            "google_wallet_issuer": "338",
            "google_wallet_logo": "https://shop.example/logo.png",
        }

    @classmethod
    def make(cls, folder: Path) -> WalletKeys:
        keys = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
        subjects = [
            _subject(CN="Root"),
            _subject(CN="Intermediate"),
            _subject(CN="Pass Type ID: pass.example.cards", UID="pass.example.cards", OU="TEAM123456"),
        ]
        made = cls(*(folder / name for name in ("pass.pem", "key.pem", "intermediate.pem", "root.pem", "account.json")))
        for file, place in ((made.root, 0), (made.intermediate, 1), (made.certificate, 2)):
            certificate = _certificate(subjects, keys, place)
            file.write_bytes(certificate.public_bytes(Encoding.PEM))
        pem = keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        made.key.write_bytes(pem)
        account = {"client_email": "cards@example.iam.gserviceaccount.com", "private_key": pem.decode()}
        made.account.write_bytes(orjson.dumps({"type": "service_account", **account}))
        return made


def _certificate(subjects: Sequence[x509.Name], keys: Sequence[rsa.RSAPrivateKey], place: int) -> x509.Certificate:
    """Return the certificate of one of the subjects, signed by the one before it."""
    above, now = max(0, place - 1), datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subjects[place])
        .issuer_name(subjects[above])
        .public_key(keys[place].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=place < 2, path_length=None), critical=True)
        .sign(keys[above], SHA256())
    )


def _subject(**parts: str) -> x509.Name:
    names = {"CN": NameOID.COMMON_NAME, "UID": NameOID.USER_ID, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}
    return x509.Name([x509.NameAttribute(names[part], value) for part, value in parts.items()])

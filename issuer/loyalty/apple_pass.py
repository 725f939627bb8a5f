"""Apple Wallet: a card as a signed .pkpass file.

The form is that of Apple's "Wallet Passes": a ZIP archive with pass.json, images, the SHA-1 of every file
(manifest.json), and a detached PKCS #7 signature of the manifest. The pass has no web service, so a phone does not ask
for updates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder
from cryptography.x509.oid import NameOID

from issuer.instants import show_instant
from issuer.loyalty.card_number import show_number
from issuer.loyalty.pass_card import PassCard, WalletError
from issuer.loyalty.pass_images import GROUND, icon

MEDIA_TYPE: Final = "application/vnd.apple.pkpass"
_TEXTS: Final = {
    "en": {"description": "Customer card", "balance": "Balance", "points": "Points", "number": "Number", "at": "As of"},
    "de": {"description": "Kundenkarte", "balance": "Guthaben", "points": "Punkte", "number": "Nummer", "at": "Stand"},
}
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest that ZIP knows: the same card gives the same files."""


@dataclass(frozen=True)
class AppleSigner:
    """What signs passes: the certificate of a pass type, its key, and Apple's intermediate certificate.

    The certificate names the pass type (UID) and the team (OU), so no setting repeats them.
    """

    certificate: x509.Certificate
    key: RSAPrivateKey
    intermediate: x509.Certificate

    @classmethod
    def load(cls, certificate: Path | None, key: Path | None, intermediate: Path | None) -> AppleSigner:
        """Read PEM files. Raises WalletError, which names the setting that is missing or wrong."""
        signer = cls(
            _certificate("ISSUER_APPLE_PASS_CERTIFICATE", certificate),
            _rsa_key("ISSUER_APPLE_PASS_KEY", key),
            _certificate("ISSUER_APPLE_INTERMEDIATE_CERTIFICATE", intermediate),
        )
        if signer.certificate.public_key() != signer.key.public_key():
            raise WalletError("ISSUER_APPLE_PASS_KEY is not the key of ISSUER_APPLE_PASS_CERTIFICATE")
        if not signer.pass_type or not signer.team:
            raise WalletError("ISSUER_APPLE_PASS_CERTIFICATE is not that of a pass type: it names no UID or no OU")
        return signer

    @property
    def pass_type(self) -> str:
        return _name(self.certificate, NameOID.USER_ID)

    @property
    def team(self) -> str:
        return _name(self.certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)

    def sign(self, content: bytes) -> bytes:
        """Return the detached signature in DER, with the chain and the time of signing in it."""
        builder = PKCS7SignatureBuilder().set_data(content).add_signer(self.certificate, self.key, SHA256())
        options = [PKCS7Options.DetachedSignature, PKCS7Options.Binary]
        return builder.add_certificate(self.intermediate).sign(Encoding.DER, options)


def make_pass(card: PassCard, signer: AppleSigner) -> bytes:
    """Return the .pkpass of a card. It takes some milliseconds: call it in a thread."""
    files = {"pass.json": orjson.dumps(_pass(card, signer))}
    files |= {f"icon{'' if scale == 1 else f'@{scale}x'}.png": icon(scale) for scale in (1, 2, 3)}
    files |= {f"{language}.lproj/pass.strings": _strings(texts) for language, texts in _TEXTS.items()}
    # SHA-1 is what the format demands.
    digests = {name: hashlib.sha1(content, usedforsecurity=False).hexdigest() for name, content in files.items()}
    manifest = orjson.dumps(digests)
    return _archive({**files, "manifest.json": manifest, "signature": signer.sign(manifest)})


def _pass(card: PassCard, signer: AppleSigner) -> dict[str, Any]:
    if card.currency is None:
        balance: dict[str, Any] = {"key": "balance", "label": "points", "value": card.balance}
    else:
        balance = {"key": "balance", "label": "balance", "value": float(card.balance), "currencyCode": card.currency}
    code = {
        "format": "PKBarcodeFormatQR",
        "message": card.number,
        "messageEncoding": "iso-8859-1",
        "altText": show_number(card.number),
    }
    at = {"key": "at", "label": "at", "value": show_instant(card.at), "dateStyle": "PKDateStyleMedium",
          "timeStyle": "PKDateStyleShort"}  # fmt: skip
    return {
        "formatVersion": 1,
        "passTypeIdentifier": signer.pass_type,
        "teamIdentifier": signer.team,
        "serialNumber": card.number,
        "organizationName": card.program,
        "description": "description",
        "logoText": card.program,
        "backgroundColor": f"rgb({', '.join(map(str, GROUND))})",
        "foregroundColor": "rgb(255, 255, 255)",
        "labelColor": "rgb(255, 255, 255)",
        "barcodes": [code],
        "storeCard": {
            "primaryFields": [balance],
            "secondaryFields": [at],
            "backFields": [{"key": "number", "label": "number", "value": show_number(card.number)}],
        },
    }


def _strings(texts: Mapping[str, str]) -> bytes:
    return "".join(f'"{key}" = "{text}";\n' for key, text in texts.items()).encode()


def _archive(files: Mapping[str, bytes]) -> bytes:
    output = BytesIO()
    with ZipFile(output, "w") as archive:
        for name, content in files.items():
            archive.writestr(ZipInfo(name, _ZIP_TIME), content, ZIP_DEFLATED)
    return output.getvalue()


def _certificate(setting: str, path: Path | None) -> x509.Certificate:
    content = _content(setting, path)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise WalletError(f"{setting}: the file is not a certificate in PEM") from error


def _rsa_key(setting: str, path: Path | None) -> RSAPrivateKey:
    content = _content(setting, path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise WalletError(f"{setting}: the file is not a key in PEM without a password") from error
    if not isinstance(key, RSAPrivateKey):
        raise WalletError(f"{setting}: the key is not an RSA key")
    return key


def _content(setting: str, path: Path | None) -> bytes:
    if path is None:
        raise WalletError(f"{setting} is not set")
    try:
        return path.read_bytes()
    except OSError as error:
        raise WalletError(f"{setting}: the file cannot be read ({error.strerror})") from error


def _name(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """Return a part of the subject; empty: the certificate does not name it."""
    return next((str(part.value) for part in certificate.subject.get_attributes_for_oid(oid)), "")

"""Passes for the wallets of phones: what is in them, and whether openssl and a public key verify their signatures."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from issuer.loyalty.apple_pass import AppleSigner, make_pass
from issuer.loyalty.google_pass import MAX_LINK, SAVE, GoogleSigner, save_link
from issuer.loyalty.pass_card import PassCard, WalletError
from tests.support.programs import require
from tests.support.wallet_keys import WalletKeys

POINTS = PassCard(
    UUID(int=7), "Café “Zur Post”", "ABCD2345EFGH", 1_234, None, datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
)
MONEY = replace(POINTS, balance=Decimal("12.34"), currency="EUR")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> WalletKeys:
    return WalletKeys.make(tmp_path_factory.mktemp("wallets"))


def test_an_apple_pass_is_whole_and_openssl_verifies_its_signature(keys: WalletKeys, tmp_path: Path) -> None:
    signer = AppleSigner.load(keys.certificate, keys.key, keys.intermediate)
    for card, balance in (
        (POINTS, {"key": "balance", "label": "points", "value": 1234}),
        (MONEY, {"key": "balance", "label": "balance", "value": 12.34, "currencyCode": "EUR"}),
    ):
        with zipfile.ZipFile(io.BytesIO(make_pass(card, signer))) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        shown = orjson.loads(files["pass.json"])
        assert (shown["passTypeIdentifier"], shown["teamIdentifier"]) == ("pass.example.cards", "TEAM123456")
        assert (shown["serialNumber"], shown["organizationName"]) == ("ABCD2345EFGH", "Café “Zur Post”")
        assert [code["message"] for code in shown["barcodes"]] == ["ABCD2345EFGH"]
        assert shown["storeCard"]["primaryFields"] == [balance]
        manifest = orjson.loads(files["manifest.json"])
        assert manifest == {
            name: hashlib.sha1(content).hexdigest()
            for name, content in files.items()
            if name not in ("manifest.json", "signature")
        }
        assert {"icon.png", "icon@2x.png", "en.lproj/pass.strings", "de.lproj/pass.strings"} <= manifest.keys()
        (tmp_path / "signature").write_bytes(files["signature"])
        (tmp_path / "manifest").write_bytes(files["manifest.json"])
        verified = verify(tmp_path, keys.root)
        assert verified.returncode == 0, verified.stderr
        (tmp_path / "manifest").write_bytes(files["manifest.json"] + b" ")
        assert verify(tmp_path, keys.root).returncode != 0


def verify(folder: Path, root: Path) -> subprocess.CompletedProcess[bytes]:
    options = "-verify -inform DER -in signature -content manifest -purpose any"
    command = [str(require("openssl")), "smime", *options.split(), "-CAfile", str(root)]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)


def test_a_google_link_is_a_jwt_of_the_service_account(keys: WalletKeys) -> None:
    signer = GoogleSigner.load(keys.account, "3388000000012345678", "https://shop.example/logo.png")
    public = load_pem_private_key(orjson.loads(keys.account.read_bytes())["private_key"].encode(), None).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def payload(card: PassCard) -> dict[str, Any]:
        link = save_link(card, signer)
        assert len(link) <= MAX_LINK
        claims: dict[str, Any] = jwt.decode(
            link.removeprefix(SAVE), pem, ["RS256"], audience="google", options={"verify_iat": False}
        )
        assert (claims["iss"], claims["typ"]) == ("cards@example.iam.gserviceaccount.com", "savetowallet")
        return dict(claims["payload"])

    points = payload(POINTS)
    (kind,), (saved,) = points["loyaltyClasses"], points["loyaltyObjects"]
    assert saved["classId"] == kind["id"] == f"3388000000012345678.{UUID(int=7)}"
    assert (saved["barcode"]["value"], saved["loyaltyPoints"]["balance"]) == ("ABCD2345EFGH", {"string": "1234"})
    (gift,) = payload(MONEY)["giftCardObjects"]
    assert (gift["cardNumber"], gift["balance"]) == ("ABCD2345EFGH", {"micros": "12340000", "currencyCode": "EUR"})
    # The longest name that a program may have.
    assert payload(replace(MONEY, program="€" * 255))


def test_what_a_wallet_lacks_is_named(keys: WalletKeys, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no key")
    for files, message in (
        ((None, keys.key, keys.intermediate), "ISSUER_APPLE_PASS_CERTIFICATE is not set"),
        (
            (keys.certificate, tmp_path / "none.pem", keys.intermediate),
            "ISSUER_APPLE_PASS_KEY: the file cannot be read",
        ),
        ((keys.certificate, other, keys.intermediate), "ISSUER_APPLE_PASS_KEY: the file is not a key"),
        ((keys.intermediate, keys.key, keys.intermediate), "ISSUER_APPLE_PASS_KEY is not the key of"),
        ((keys.certificate, keys.key, keys.key), "ISSUER_APPLE_INTERMEDIATE_CERTIFICATE: the file is not a certif"),
    ):
        with pytest.raises(WalletError, match=message):
            AppleSigner.load(*files)
    with pytest.raises(WalletError, match="not set: ISSUER_GOOGLE_WALLET_ISSUER, ISSUER_GOOGLE_WALLET_LOGO"):
        GoogleSigner.load(keys.account, None, None)
    with pytest.raises(WalletError, match="is not the key of a service account"):
        GoogleSigner.load(other, "1", "https://shop.example/logo.png")

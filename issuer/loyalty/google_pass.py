"""Google Wallet: a card as a link that saves it, signed with the key of a service account.

The link has a JWT (RS256) with the pass and its class in it, so nothing is sent to Google from here: Google creates
both when the customer opens the link. Needs the extra `wallets` (PyJWT).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import orjson

from issuer.instants import to_ms
from issuer.loyalty.card_number import show_number
from issuer.loyalty.pass_card import PassCard, WalletError

SAVE: Final = "https://pay.google.com/gp/v/save/"
MAX_LINK: Final = 1_800
"""Characters of a link that every browser takes, as Google's documentation has it."""
MAX_NAME_BYTES: Final = 60
"""Bytes of the name of a program in a link, which has it twice."""
_MICROS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class GoogleSigner:
    """The service account that signs links, the number of the issuer in Google's console, and the address of a logo."""

    email: str
    private_key: str
    issuer_id: str
    logo: str

    @classmethod
    def load(cls, key: Path | None, issuer_id: str | None, logo: str | None) -> GoogleSigner:
        """Read the JSON file of a service account. Raises WalletError, which names what is missing or wrong."""
        if find_spec("jwt") is None:
            raise WalletError(
                "links for Google Wallet need an extra that is not installed: pip install 'issuer[wallets]'"
            )
        if key is None or issuer_id is None or logo is None:
            missing = {"KEY": key, "ISSUER": issuer_id, "LOGO": logo}
            names = [f"ISSUER_GOOGLE_WALLET_{name}" for name, value in missing.items() if value is None]
            raise WalletError(f"not set: {', '.join(names)}")
        try:
            account = orjson.loads(key.read_bytes())
            return cls(str(account["client_email"]), str(account["private_key"]), issuer_id, logo)
        except OSError as error:
            raise WalletError(f"ISSUER_GOOGLE_WALLET_KEY: the file cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise WalletError(
                "ISSUER_GOOGLE_WALLET_KEY: the file is not the key of a service account in JSON"
            ) from error


def save_link(card: PassCard, signer: GoogleSigner) -> str:
    """Return the link that saves a card. It takes some milliseconds: call it in a thread. Raises WalletError."""
    import jwt

    claims = {
        "iss": signer.email,
        "aud": "google",
        "typ": "savetowallet",
        "iat": to_ms(card.at) // 1_000,
        "payload": _gift_card(card, signer) if card.currency else _loyalty_card(card, signer),
    }
    try:
        # `jwt.encode` would escape what is not ASCII, to twice its length in a link that is short of it.
        token = jwt.PyJWS().encode(orjson.dumps(claims), signer.private_key, "RS256")
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        raise WalletError("ISSUER_GOOGLE_WALLET_KEY: the key cannot sign with RS256") from error
    return SAVE + token


def _loyalty_card(card: PassCard, signer: GoogleSigner) -> dict[str, Any]:
    # A number in this place has 32 bits.
    balance = {"label": "Points", "balance": {"string": str(card.balance)}}
    kind = {
        **_class(card, signer),
        "programName": _name(card),
        "programLogo": {"sourceUri": {"uri": signer.logo}},
    }
    return {"loyaltyClasses": [kind], "loyaltyObjects": [{**_object(card, signer), "loyaltyPoints": balance}]}


def _gift_card(card: PassCard, signer: GoogleSigner) -> dict[str, Any]:
    # Google counts money in millionths, as a string.
    balance = {"micros": str(int(card.balance * _MICROS)), "currencyCode": card.currency}
    kind = {
        **_class(card, signer),
        "merchantName": _name(card),
        "programLogo": {"sourceUri": {"uri": signer.logo}},
    }
    card_object = {**_object(card, signer), "cardNumber": card.number, "balance": balance}
    return {"giftCardClasses": [kind], "giftCardObjects": [card_object]}


def _class(card: PassCard, signer: GoogleSigner) -> dict[str, Any]:
    return {"id": _class_id(card, signer), "issuerName": _name(card), "reviewStatus": "UNDER_REVIEW"}


def _object(card: PassCard, signer: GoogleSigner) -> dict[str, Any]:
    code = {"type": "QR_CODE", "value": card.number, "alternateText": show_number(card.number)}
    return {
        "id": f"{signer.issuer_id}.{card.program_id}-{card.number}",
        "classId": _class_id(card, signer),
        "state": "ACTIVE",
        "barcode": code,
    }


def _class_id(card: PassCard, signer: GoogleSigner) -> str:
    return f"{signer.issuer_id}.{card.program_id}"


def _name(card: PassCard) -> str:
    """Return the name of the program, cut where it would make the link too long."""
    encoded = card.program.encode()
    return (
        card.program if len(encoded) <= MAX_NAME_BYTES else encoded[: MAX_NAME_BYTES - 3].decode(errors="ignore") + "…"
    )

"""What may be said about a member: addresses, numbers, names, languages. Nothing of it is quoted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from issuer.loyalty.member import InvalidMemberError, Member, fold_email, member_values
from issuer.mail_server import parse_email as parse_mailed


def refused(**values: Any) -> str:
    with pytest.raises(InvalidMemberError) as caught:
        member_values(values)
    return str(caught.value)


def test_values_are_stored_in_one_form() -> None:
    given = {
        "ref": " kunde-7 ", "email": " Bjo\u0308rn@Example.org",
        "phone": "0044 (20) 7946-0958", "name": " Bjo\u0308rn ",
        "locale": "DE-at", "marketing": True,
    }  # fmt: skip
    assert member_values(given) == {
        "ref": "kunde-7", "email": "Björn@Example.org", "email_folded": "björn@example.org", "phone": "+442079460958",
        "name": "Björn", "locale": "de-AT", "marketing": True,
    }  # fmt: skip
    # Absent keeps its value, null removes it.
    assert member_values({}) == {}
    assert member_values({"email": None, "ref": None}) == {"email": None, "email_folded": None, "ref": None}


def test_an_address_is_folded_without_making_one_of_two_mailboxes() -> None:
    assert fold_email("ANNA@EXAMPLE.ORG") == fold_email(" anna@example.org ") == "anna@example.org"
    # The sign for kelvin is K in NFC.
    assert fold_email("\u212aurt@example.org") == "kurt@example.org"
    assert fold_email("Stra\u00dfe@example.org") != fold_email("strasse@example.org")


def test_the_spellings_of_a_domain_are_one_address_to_which_mail_is_sent() -> None:
    spellings = {
        "anna@example.org": ["anna@\uff45xample.org", "anna@example\u3002org", "ANNA@EXAMPLE.ORG"],
        # In IDNA 2003 this is strasse.de, a domain with another owner.
        "anna@xn--strae-oqa.de": ["anna@stra\u00dfe.de", "anna@STRA\u1e9eE.de", "anna@xn--strae-oqa.de"],
        "anna@xn--mller-kva.example": ["anna@mu\u0308ller.example", "anna@M\u00dcLLER.example"],
    }
    for address, given in spellings.items():
        for text in given:
            values = member_values({"email": text})
            assert values["email_folded"] == fold_email(text) == address
            assert parse_mailed(values["email"]) == values["email"]
    # The form in ASCII is the one that has a longest length.
    umlaut = "m\u00fcller"
    assert len(member_values({"email": f"a@{'b.' * 119}{umlaut}"})["email"]) == 253
    for refusal in (f"a@{'b.' * 121}{umlaut}", "a@\u2603.org", "a@b!c.org", "a@-b.org", f"a@{umlaut * 10}.org"):
        assert refused(email=refusal) == "email must be an address such as anna@example.org"


def test_what_cannot_be_a_value_is_refused_and_not_quoted() -> None:
    addresses = ["anna", "@example.org", "anna@", "a@b@c", "a b@example.org", "a..b@example.org", "a@example..org"]
    addresses += [
        "a\r\nBcc: b@example.org",
        "a@exam\u200bple.org",
        "x" * 65 + "@example.org",
        f"a@{'x' * 260}.org",
        "",
        "a@b,c@d",
    ]
    for address in addresses:
        assert refused(email=address) == "email must be an address such as anna@example.org"
    for number in ("020 7946 0958", "+0 123 4567", "+44", "+44207946095812345", "phone", "+44 20 x946", ""):
        assert refused(phone=number).startswith("phone must be a number with the code of its country")
    for tag in ("xx-YY", "de_AT", "", "e", "de-AT-x-y-z", "../../etc"):
        assert refused(locale=tag) == "locale must be the tag of a language, such as en or de-AT"
    assert "form of a UUID" in refused(ref=f"{{{uuid4()}}}")
    for ref in ("", "a\u202eb", "x" * 129):
        assert refused(ref=ref).startswith("ref: ")
    assert refused(name=" ") == "name must not be empty"
    assert "invisible" in refused(name="An\u202ena")
    for name in ("ref", "email", "phone", "name", "locale"):
        assert refused(**{name: 7}) == f"{name} must be a string"
    assert refused(marketing="true") == refused(marketing=None) == "marketing must be true or false"


def test_the_representation_of_a_member_has_no_personal_data() -> None:
    now = datetime(2026, 7, 1, tzinfo=UTC)
    member = Member(uuid4(), uuid4(), "REF", "E@MAIL", "+44PHONE", "NAME", "en", False, None, None, None, now)
    assert not [text for text in ("REF", "E@MAIL", "+44PHONE", "NAME") if text in repr(member)]
    assert member.customer == "REF"

"""Ids of callers: the four forms of a UUID, texts, and one UUID for each text."""

from __future__ import annotations

import uuid

import pytest

from issuer.ids import MAX_ID, InvalidIdError, id_of, id_text, parse_uuid

INSTALLATION = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
ID = uuid.UUID("f47ac10b-58cc-0372-8567-0e02b2c3d479")
FORMS = (str(ID), ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}")
NO_UUIDS = (
    "", "{}", "urn:uuid:", f"{{{ID}", f"{ID}}}", f"{{{ID.hex}}}", f"urn:uuid:{ID.hex}", f"urn:uuid:{{{ID}}}",
    f"[{ID}]", f"({ID})", f"{ID}-", f" {ID}", f"{ID}\n", ID.hex[:-1], ID.hex + "0", str(ID).replace("-", "_"),
    str(ID)[:-1] + "g", ID.hex[:-1] + "٣", str(ID).replace("f47ac10b-58cc", "f47ac10-b58cc"), "urn:uuıd:" + str(ID),
)  # fmt: skip


def test_a_uuid_has_the_four_forms_of_the_standard_and_no_others() -> None:
    for form in FORMS:
        for spelled in (form, form.upper(), form.title()):
            assert parse_uuid(spelled) == ID
            assert id_of(spelled, INSTALLATION) == (ID.bytes, None)
    assert [text for text in NO_UUIDS if parse_uuid(text) is not None] == []


def test_a_text_stands_for_one_uuid_of_the_installation() -> None:
    for text in ("anna@example.org", "4711", "Zoë Müller", "夏の人", "می\u200cخواهم", "❤\ufe0f", "x" * MAX_ID):
        found = id_of(text, INSTALLATION)
        assert found.text == text
        assert found.uuid == uuid.uuid5(INSTALLATION, text)
        assert id_of(text, ID).uuid == uuid.uuid5(ID, text)
    assert id_of("Anna", INSTALLATION) != id_of("anna", INSTALLATION)


def test_white_space_and_unseen_characters_at_the_ends_are_no_part_of_an_id() -> None:
    for before, behind in ((" ", "\t\r\n"), ("\ufeff", "\u200b"), ("\xa0\u2060", "\u3000\u200d"), ("\ufe0f", "\x00")):
        assert id_of(before + "Zoe\u0308" + behind, INSTALLATION) == id_of("Zoë", INSTALLATION)
        assert id_of(before + "anna" + behind, INSTALLATION).text == "anna"
        assert id_of(before + "❤\ufe0f" + behind, INSTALLATION).text == "❤\ufe0f"
        assert id_of(before + str(ID) + behind, INSTALLATION) == (ID.bytes, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "an id must not be empty"),
        ("\u200b \ufeff", "an id must not be empty"),
        ("x" * (MAX_ID + 1), "an id must have at most 128 characters"),
        ("\ufeff" * 100_000 + "x", "an id must have at most 128 characters"),
        ("an\x00na", "an id must not contain control characters"),
        ("an\tna", "an id must not contain control characters"),
        ("an\ud800na", "an id must not contain control characters"),
        ("an\u200bna", "an id must not contain invisible characters, such as U+200B ZERO WIDTH SPACE at 3"),
        ("an\xadna", "an id must not contain invisible characters, such as U+00AD SOFT HYPHEN at 3"),
        ("a\u202en\u200bna", "an id must not contain invisible characters, such as U+202E RIGHT-TO-LEFT OVERRIDE at 2"),
    ],
)
def test_what_cannot_be_an_id_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidIdError) as caught:
        id_text(text)
    assert str(caught.value) == why

"""Formats of generated codes: validation, code space, warnings."""

from __future__ import annotations

import unicodedata

import pytest

from issuer.generating.alphabets import alphabet_characters
from issuer.generating.code_format import CodeFormat, CodeFormatError, CodeSpaceError, parse_code_format

KOREAN = "가나다라마바사아자차카타파하0123456789"


@pytest.mark.parametrize(
    ("form", "space"),
    [
        (CodeFormat(), 30**12),
        (CodeFormat(length=4, alphabet="numeric"), 10_000),
        (CodeFormat(length=4, alphabet="Numeric", check=True), 1_000),
        (CodeFormat(length=3, alphabet="alphabetic", prefix="A-", suffix="Z"), 26**3),
        (CodeFormat(length=3, alphabet="alphanumeric"), 36**3),
        (CodeFormat(pattern="SUMMER-####-####"), 30**8),
        (CodeFormat(pattern="#-#", check=True), 30),
        (CodeFormat(length=10, alphabet=KOREAN), 24**10),
        (CodeFormat(length=255, alphabet="numeric"), 10**255),
    ],
)
def test_the_space_is_exact(form: CodeFormat, space: int) -> None:
    assert form.space == space


def test_one_set_of_codes_has_one_spelling_however_it_is_written() -> None:
    form = CodeFormat(prefix="A-", length=4, alphabet="numeric")
    same = (
        CodeFormat(pattern="A-####", alphabet="numeric"), CodeFormat(prefix="A-", length=4, alphabet="9876543210"),
        CodeFormat(prefix="A-", length=4, alphabet="NUMERIC", check=True),
        CodeFormat(pattern="A-####", alphabet="numeric", unlucky_words=("666",)),
    )  # fmt: skip
    assert {other.spelling for other in same} == {form.spelling}
    others = (
        CodeFormat(prefix="A-", length=5, alphabet="numeric"), CodeFormat(prefix="A", length=4, alphabet="numeric"),
        CodeFormat(prefix="A-", length=4, alphabet="012345678"), CodeFormat(pattern="A-##-##", alphabet="numeric"),
        CodeFormat(prefix="A-#", length=3, alphabet="numeric"), CodeFormat(suffix="A-", length=4, alphabet="numeric"),
    )  # fmt: skip
    assert len({other.spelling for other in (form, *others)}) == 1 + len(others)


def test_unambiguous_has_no_characters_that_look_alike() -> None:
    characters = alphabet_characters("unambiguous")
    assert not set("O0I1L") & set(characters)
    assert len(characters) % 2 == 0


def test_a_pattern_is_split_into_fixed_text_and_groups() -> None:
    form = CodeFormat(pattern="S-##-#X")
    assert (form.fixed, form.groups, form.places) == (("S-", "-", "X"), (2, 1), 3)
    assert CodeFormat(pattern="##").fixed == ("", "")
    assert CodeFormat(length=5, prefix="#", suffix="%").fixed == ("#", "%")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"length": 0}, "length"),
        ({"length": -1}, "length"),
        ({"length": 256}, "length"),
        ({"length": True}, "length"),
        ({"length": "12"}, "length"),
        ({"length": 250, "prefix": "SUMMER"}, "length"),
        ({"pattern": "SUMMER"}, "pattern"),
        ({"pattern": 5}, "pattern"),
        ({"pattern": "A ##"}, "pattern"),
        ({"pattern": "A##", "length": 2}, "length"),
        ({"pattern": "A##", "length": 0}, "length"),
        ({"pattern": "A##", "prefix": "B"}, "prefix"),
        ({"pattern": "#\u0301#"}, "pattern"),
        ({"pattern": "#" * 256}, "pattern"),
        ({"prefix": "A\n"}, "prefix"),
        ({"prefix": "\ud800"}, "prefix"),
        ({"prefix": "x" * 256}, "prefix"),
        ({"suffix": "\u200b"}, "suffix"),
        ({"suffix": "\u0301"}, "suffix"),
        ({"alphabet": ""}, "alphabet"),
        ({"alphabet": "a"}, "alphabet"),
        ({"alphabet": "abca"}, "alphabet"),
        ({"alphabet": "ab c"}, "alphabet"),
        ({"alphabet": "ab\x07"}, "alphabet"),
        ({"alphabet": "ab\udc00"}, "alphabet"),
        ({"alphabet": "xq\u0323"}, "alphabet"),
        ({"alphabet": "\u1100a\u1161"}, "alphabet"),
        ({"alphabet": "ab\u00ad"}, "alphabet"),
        ({"alphabet": ["a", "b"]}, "alphabet"),
        ({"alphabet": "".join(map(chr, range(0x4E00, 0x4E00 + 16_385)))}, "alphabet"),
        ({"check": "luhn"}, "check"),
        ({"check": True, "alphabet": "abc"}, "check"),
        ({"check": True, "length": 1}, "check"),
        ({"unlucky": 1}, "unlucky"),
        ({"unlucky_words": "DAMN"}, "unlucky_words"),
        ({"unlucky_words": [1]}, "unlucky_words"),
        ({"unlucky_words": ["X"]}, "unlucky_words"),
        ({"unlucky_words": ["--"]}, "unlucky_words"),
        ({"unlucky_words": ["W" * 65]}, "unlucky_words"),
        ({"unlucky_words": ["ab" + "-" * 63]}, "unlucky_words"),
        ({"unlucky_words": ["ab", "\u00bd"]}, "unlucky_words"),
        ({"unlucky_words": ["\ufdfa" * 5]}, "unlucky_words"),
        ({"unlucky_words": [f"W{number}" for number in range(1_001)]}, "unlucky_words"),
        ({"lenght": 12}, "'lenght'"),
    ],
)
def test_an_invalid_format_is_refused_and_the_field_is_named(values: dict[str, object], field: str) -> None:
    with pytest.raises(CodeFormatError) as caught:
        parse_code_format(values)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"length": None, "alphabet": None},
        {"length": 8, "prefix": "가", "suffix": "!", "alphabet": KOREAN, "unlucky": False},
        {"pattern": "SUMMER-####-####", "check": True, "unlucky_words": ["Bad Word", "악마", "\u1100-\u1161\u0390"]},
    ],
)  # fmt: skip
def test_a_format_survives_json(values: dict[str, object]) -> None:
    form = parse_code_format(values)
    assert parse_code_format(form.to_json()) == form
    assert hash(form) == hash(parse_code_format(form.to_json()))


def test_text_is_stored_composed() -> None:
    form = CodeFormat(alphabet=unicodedata.normalize("NFD", KOREAN), prefix=unicodedata.normalize("NFD", "É"))
    assert form == CodeFormat(alphabet=KOREAN, prefix="É")


@pytest.mark.parametrize(
    ("form", "count", "length"),
    [
        (CodeFormat(length=4, alphabet="numeric"), 1_001, 5),
        (CodeFormat(length=4, alphabet="numeric", check=True), 101, 5),
        (CodeFormat(length=1, alphabet="ab"), 1, 4),
        (CodeFormat(pattern="A#-#", alphabet="numeric"), 1_000_000, 7),
        (CodeFormat(length=3), 10**9, 7),
    ],
)
def test_a_space_too_small_is_refused_with_a_sufficient_length(form: CodeFormat, count: int, length: int) -> None:
    with pytest.raises(CodeSpaceError, match=rf"\b{length}\b.* would do") as caught:
        form.check_space(count)
    assert caught.value.length == length
    enough = CodeFormat(length=length, alphabet=form.alphabet, check=form.check)
    enough.check_space(count)
    if length > 1 + form.check:
        with pytest.raises(CodeSpaceError):
            CodeFormat(length=length - 1, alphabet=form.alphabet, check=form.check).check_space(count)


def test_codes_that_are_easy_to_enumerate_give_a_warning() -> None:
    form = CodeFormat(length=8, alphabet="numeric")
    assert form.check_space(100) is None
    warning = form.check_space(101)
    assert warning is not None
    assert "one in 990,099 codes" in warning
    assert "a length of 9 is safe" in warning
    assert CodeFormat(length=9, alphabet="numeric").check_space(101) is None


def test_exactly_ten_times_the_count_is_enough() -> None:
    assert CodeFormat(length=4, alphabet="numeric").check_space(1_000) is not None

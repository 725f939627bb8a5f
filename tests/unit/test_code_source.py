"""Drawn codes: format, uniform distribution, check character, word filter."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from itertools import product

import pytest

from issuer.generating.alphabets import alphabet_characters
from issuer.generating.code_format import CodeFormat
from issuer.generating.code_source import (
    BATCH_SIZE,
    CodeSource,
    FewCodesError,
    character_source,
    draw_code,
)
from issuer.generating.luhn import LuhnModN
from issuer.generating.word_filter import WordFilter, WordsError, built_in_words, parse_words

KOREAN = "가나다라마바사아자차카타파하0123456789"


def test_the_published_example_of_luhn_mod_n() -> None:
    """en.wikipedia.org/wiki/Luhn_mod_N_algorithm: over a to f the check character of abcdef is e."""
    luhn = LuhnModN("abcdef")
    assert luhn.character("abcdef") == "e"
    assert luhn.holds("abcdefe")
    assert not luhn.holds("abcdefd")


@pytest.mark.parametrize("number", ["79927398713", "4111111111111111", "378282246310005", "5555555555554444"])
def test_luhn_over_ten_digits_matches_payment_cards(number: str) -> None:
    """The usual example of Luhn's formula, and test numbers of card schemes."""
    assert LuhnModN("0123456789").character(number[:-1]) == number[-1]


@pytest.mark.parametrize("name", ["numeric", "unambiguous"])
def test_a_wrong_character_or_a_swap_is_detected(name: str) -> None:
    characters = alphabet_characters(name)
    luhn = LuhnModN(characters)
    for pair in product(characters, repeat=2):
        text = "".join(pair)
        code = text + luhn.character(text)
        for place in range(3):
            assert not any(luhn.holds(code[:place] + c + code[place + 1 :]) for c in characters if c != code[place])
        if text[0] != text[1] and set(text) != {characters[0], characters[-1]}:
            assert not luhn.holds(text[::-1] + code[2])


def test_an_alphabet_of_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        LuhnModN("abc")


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (CodeFormat(), r"[2-9A-HJKMNP-TV-Z]{12}"),
        (CodeFormat(length=6, alphabet="numeric", prefix="%s{0}", suffix="\\"), r"%s\{0\}[0-9]{6}\\"),
        (CodeFormat(pattern="100%-##-A-#", alphabet="alphabetic"), r"100%-[A-Z]{2}-A-[A-Z]"),
        (CodeFormat(pattern="###-###", alphabet="alphanumeric"), r"[0-9A-Z]{3}-[0-9A-Z]{3}"),
        (CodeFormat(length=10, alphabet=KOREAN), rf"[{KOREAN}]{{10}}"),
        (CodeFormat(length=4, alphabet="".join(map(chr, range(0x4E00, 0x4E00 + 5_000)))), r"[\u4e00-\u6187]{4}"),
    ],
)
def test_codes_match_their_format(form: CodeFormat, pattern: str) -> None:
    codes = [code for chunk in CodeSource(form).chunks(500) for code in chunk]
    assert len(codes) == len(set(codes)) == 500
    assert all(re.fullmatch(pattern, code) for code in codes)


def test_chunks_add_up_to_the_count() -> None:
    sizes = [len(chunk) for chunk in CodeSource(CodeFormat()).chunks(2 * BATCH_SIZE + 7)]
    assert sizes == [BATCH_SIZE, BATCH_SIZE, 7]


def test_the_check_character_is_in_the_last_place() -> None:
    form = CodeFormat(pattern="AB-###-###-Z", alphabet="numeric", check=True)
    luhn = LuhnModN("0123456789")
    assert all(luhn.holds(code[3:6] + code[7:10]) for code in CodeSource(form).draw(500))


@pytest.mark.parametrize("size", [3, 10, 24, 30, 200, 257, 15_000])
def test_every_character_is_equally_likely(size: int) -> None:
    """Chi-square over 50 draws per character; beyond 8 standard deviations about once in 10^14 runs."""
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + size)))
    count = 50 * size
    counted = Counter(character_source(characters)(count))
    assert set(counted) <= set(characters)
    chi_square = sum((counted[character] - 50) ** 2 / 50 for character in characters)
    assert abs(chi_square - (size - 1)) < 8 * (2 * size) ** 0.5 + 40


@pytest.mark.parametrize("size", [30, 300])
def test_numbers_above_the_last_whole_multiple_are_discarded(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given every number once, all characters are equally frequent; folding back would favour the first ones."""
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + size)))
    numbers = bytes(range(256)) if size <= 256 else b"".join(n.to_bytes(2, "little") for n in range(65_536))
    monkeypatch.setattr(secrets, "token_bytes", lambda _: numbers)
    whole = len(numbers) // (1 if size <= 256 else 2) // size
    assert set(Counter(character_source(characters)(whole * size)).values()) == {whole}


def test_words_are_excluded_in_any_case_across_dashes_and_with_digits_as_letters() -> None:
    form = CodeFormat(pattern="#-##", alphabet="aAbB5Ss", unlucky=False, unlucky_words=("Bas",))
    everything = {f"{code[0]}-{code[1]}{code[2]}" for code in product("aAbB5Ss", repeat=3)}
    word = re.compile(r"[bB]-[aA][sS5]")
    allowed = {code for code in everything if not word.fullmatch(code)}
    assert len(allowed) == 343 - 12
    assert set(CodeSource(form).draw(len(allowed))) == allowed


def test_only_codes_with_the_word_are_excluded() -> None:
    """Of the 27 codes only those with the word are missing, and no further code can be drawn."""
    form = CodeFormat(length=3, alphabet="xyz", unlucky_words=("XY",))
    everything = {"".join(code) for code in product("xyz", repeat=3)}
    allowed = {code for code in everything if "xy" not in code}
    assert set(CodeSource(form).draw(len(allowed))) == allowed
    with pytest.raises(FewCodesError):
        CodeSource(form).draw(len(allowed) + 1)


def test_words_across_the_fixed_text_are_excluded_but_not_words_within_it() -> None:
    codes = CodeSource(CodeFormat(length=1, prefix="CLASSIC-S", suffix="X", alphabet="ABCDEFGH")).draw(7)
    assert {code[9] for code in codes} == set("ABCDFGH")


def test_codes_of_digits_are_not_read_as_letters() -> None:
    form = CodeFormat(length=3, alphabet="numeric")
    assert len(set(CodeSource(form).draw(1_000))) == 1_000
    with pytest.raises(FewCodesError):
        CodeSource(CodeFormat(length=3, alphabet="numeric", unlucky_words=("666",))).draw(1_000)


def test_the_built_in_list_applies_unless_disabled() -> None:
    assert "damn" in built_in_words()
    assert len(CodeSource(CodeFormat(length=3, alphabet="SEX")).draw(26)) == 26
    with pytest.raises(FewCodesError):
        CodeSource(CodeFormat(length=3, alphabet="SEX")).draw(27)
    assert len(CodeSource(CodeFormat(length=3, alphabet="SEX", unlucky=False)).draw(27)) == 27


LETTER_PAIRS = tuple(sorted("".join(pair) for pair in product("23456789abcdefghjkmnpqrstvwxyz", repeat=2)))[:880]


@pytest.mark.parametrize("length", [12, 255])
def test_words_that_refuse_nearly_every_code_cost_one_sample(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one sample after another until a code is found that has no word."""
    source, drawn = CodeSource(CodeFormat(length=length, unlucky_words=LETTER_PAIRS)), list[int]()
    bodies = source._draw_bodies

    def draw(count: int) -> list[str]:
        drawn.append(count)
        return bodies(count)

    monkeypatch.setattr(source, "_draw_bodies", draw)
    with pytest.raises(FewCodesError, match="fewer unlucky words"):
        source.check_share()
    assert drawn == [source.sample_size]
    assert source.sample_size * length <= 51_000
    with pytest.raises(FewCodesError, match="fewer unlucky words"):
        source.draw(1)
    assert sum(drawn) <= 3 * source.sample_size


def test_what_check_share_accepts_can_be_drawn() -> None:
    """Of the codes of these words a third is left."""
    form = CodeFormat(length=4, alphabet="abcdef", unlucky=False, unlucky_words=("ab", "cd", "ef", "ba", "fa", "ec"))
    source = CodeSource(form)
    source.check_share()
    allowed = sum(
        not any(word in "".join(code) for word in form.words) for code in product("abcdef", repeat=4)
    )  # fmt: skip
    assert len(source.draw(allowed // 2)) == allowed // 2


@pytest.mark.parametrize("alike", [False, True])
def test_the_filter_agrees_with_a_search_for_each_word_in_each_code(alike: bool) -> None:
    words = ("aa", "bob", "cab", "abba") if alike else ("a1", "22", "1b2", "2a2a")
    codes = ["".join(code) for code in product("abc012", repeat=4)]
    filter_ = WordFilter(words, "abc012", ("", ""))
    letters = str.maketrans("01", "oi")
    read = [code.translate(letters) if alike else code for code in codes]
    assert filter_.without(codes) == [
        code for code, text in zip(codes, read, strict=True) if not any(word in text for word in words)
    ]


def test_a_file_of_words_is_parsed() -> None:
    assert parse_words("# mine\nFoo Bar\n\n foo-bar \nbaz\n") == ("foobar", "baz")
    with pytest.raises(WordsError):
        parse_words("x\n")


def test_draw_code_returns_one_code() -> None:
    assert re.fullmatch(r"SAVE-[2-9A-Z]{6}", draw_code(CodeFormat(length=6, prefix="SAVE-")))

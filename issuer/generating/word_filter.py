"""Filter for codes that contain an unlucky word."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

SHORTEST_WORD: Final = 2
LONGEST_WORD: Final = 64
MAX_WORDS: Final = 1_000

_FILE: Final = Path(__file__).with_name("unlucky_words.txt")
_LOOK_ALIKE: Final = str.maketrans("0134578", "oieastb")
_SEPARATOR: Final = "\n"


class WordsError(ValueError):
    """The words are not valid for a filter. The message is written for the person who chose them."""


def parse_words(text: str) -> tuple[str, ...]:
    """Return the words of a file, one per line, without blank lines and lines that begin with #. Raises WordsError."""
    lines = (line.strip() for line in text.splitlines())
    return check_words([line for line in lines if line and not line.startswith("#")])


def check_words(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words as the filter compares them, each once, in order. Raises WordsError."""
    if len(words) > MAX_WORDS:
        raise WordsError(f"must have at most {MAX_WORDS:,} words")
    distinct: dict[str, None] = {}
    for word in words:
        folded = _fold(word)
        if not all(SHORTEST_WORD <= len(text) <= LONGEST_WORD for text in (word, folded)):
            # A single letter is a matter of the alphabet.
            raise WordsError(f"each must have {SHORTEST_WORD} to {LONGEST_WORD} letters or digits")
        distinct[folded] = None
    return tuple(distinct)


@cache
def built_in_words() -> tuple[str, ...]:
    """Return the words of the built-in list."""
    return parse_words(_FILE.read_text(encoding="utf-8"))


class WordFilter:
    """A filter for codes that contain a word: in any case, across dashes, and with digits read as letters.

    Words in the fixed text of the format are the operator's choice and are allowed.
    """

    def __init__(self, words: Sequence[str], characters: str, fixed: Sequence[str]) -> None:
        everything = unicodedata.normalize("NFKC", characters + "".join(fixed)).casefold()
        self._dropped = {ord(character): None for character in everything if not character.isalnum()}
        seen = set(everything)
        as_letters = seen | set("".join(seen).translate(_LOOK_ALIKE))
        # Codes of digits only are not read as letters. A search with digits read as letters also finds plain letters.
        letters = any(character.isascii() and character.isalpha() for character in characters)
        similar = {word for word in words if letters and word == word.translate(_LOOK_ALIKE)}
        own = self._lines(fixed)
        own_letters = own.translate(_LOOK_ALIKE)
        # Skip words with a character that no code contains: for codes of digits, that is nearly all words.
        self._plain = [(word, own.count(word)) for word in words if word not in similar and set(word) <= seen]
        self._alike = [(word, own_letters.count(word)) for word in similar if set(word) <= as_letters]

    @property
    def is_idle(self) -> bool:
        """Whether no code of the format can contain a word."""
        return not self._plain and not self._alike

    def without(self, codes: Sequence[str]) -> Sequence[str]:
        """Return the codes that contain no word, in order."""
        text = self._lines(codes)
        clean = _clean_lines(enumerate(text.split(_SEPARATOR)), self._plain)
        if self._alike:
            clean = _clean_lines(((place, line.translate(_LOOK_ALIKE)) for place, line in clean), self._alike)
        return codes if len(clean) == len(codes) else [codes[place] for place, _ in clean]

    def _lines(self, texts: Sequence[str]) -> str:
        """Return the texts folded, one per line."""
        folded = unicodedata.normalize("NFKC", _SEPARATOR.join(texts)).casefold()
        return folded.translate(self._dropped) if self._dropped else folded


def _fold(text: str) -> str:
    """Return the letters and digits without case. Folding twice changes nothing."""
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
    return unicodedata.normalize("NFKC", letters)


def _clean_lines(lines: Iterable[tuple[int, str]], words: Iterable[tuple[str, int]]) -> list[tuple[int, str]]:
    """Return the lines, with their numbers, in which no word occurs more often than allowed.

    One search per word over the joined lines is many times faster than one per word and line. Refused lines are removed
    at once: where nearly all are refused, few are left after some of the words.
    """
    clean = list(lines)
    text = _SEPARATOR.join([line for _, line in clean])
    for word, allowed in words:
        if word in text:
            clean = [numbered for numbered in clean if numbered[1].count(word) <= allowed]
            text = _SEPARATOR.join([line for _, line in clean])
    return clean

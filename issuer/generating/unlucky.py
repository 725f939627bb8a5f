"""Words that no code should contain, whatever chance says."""

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
    """These words cannot be a filter. The message is for whoever chose them."""


def parse_words(text: str) -> tuple[str, ...]:
    """The words of a file: one a line; blank lines and lines that begin with # do not count. Raises WordsError."""
    lines = (line.strip() for line in text.splitlines())
    return checked_words([line for line in lines if line and not line.startswith("#")])


def checked_words(words: Sequence[str]) -> tuple[str, ...]:
    """The words as the filter compares them, each once, in order. Raises WordsError."""
    if len(words) > MAX_WORDS:
        raise WordsError(f"must have at most {MAX_WORDS:,} words")
    found: dict[str, None] = {}
    for word in words:
        folded = _folded(word)
        if not all(SHORTEST_WORD <= len(text) <= LONGEST_WORD for text in (word, folded)):
            # One letter would be another alphabet, not a word.
            raise WordsError(f"each must have {SHORTEST_WORD} to {LONGEST_WORD} letters or digits")
        found[folded] = None
    return tuple(found)


@cache
def built_in_words() -> tuple[str, ...]:
    return parse_words(_FILE.read_text(encoding="utf-8"))


class WordFilter:
    """Tells which of many codes contain a word: in any case, over dashes, and with digits read as letters.

    What stands in the fixed text already is the operator's own choice and does not count.
    """

    def __init__(self, words: Sequence[str], characters: str, fixed: Sequence[str]) -> None:
        everything = unicodedata.normalize("NFKC", characters + "".join(fixed)).casefold()
        self._dropped = {ord(character): None for character in everything if not character.isalnum()}
        seen = set(everything)
        as_letters = seen | set("".join(seen).translate(_LOOK_ALIKE))
        # Among digits alone nobody reads letters. What is there without digits is there with digits read as letters.
        letters = any(character.isascii() and character.isalpha() for character in characters)
        similar = {word for word in words if letters and word == word.translate(_LOOK_ALIKE)}
        own = self._lines(fixed)
        own_letters = own.translate(_LOOK_ALIKE)
        # Words with a character that no code has are not looked for: with digits only that is nearly all of them.
        self._plain = [(word, own.count(word)) for word in words if word not in similar and set(word) <= seen]
        self._alike = [(word, own_letters.count(word)) for word in similar if set(word) <= as_letters]

    def without(self, codes: Sequence[str]) -> Sequence[str]:
        """The codes that contain no word, in order."""
        # One search over all of them for each word is many times faster than a search in each.
        text = self._lines(codes)
        found = set(_lines_with(text, self._plain))
        found.update(_lines_with(text.translate(_LOOK_ALIKE), self._alike))
        return [code for place, code in enumerate(codes) if place not in found] if found else codes

    def _lines(self, texts: Sequence[str]) -> str:
        """Each text folded, on a line of its own."""
        folded = unicodedata.normalize("NFKC", _SEPARATOR.join(texts)).casefold()
        return folded.translate(self._dropped) if self._dropped else folded


def _folded(text: str) -> str:
    """Letters and digits only, without case; what is folded already stays as it is."""
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
    return unicodedata.normalize("NFKC", letters)


def _lines_with(text: str, words: Iterable[tuple[str, int]]) -> Iterable[int]:
    """The numbers of the lines in which a word occurs more often than it may."""
    for word, allowed in words:
        if word in text:
            yield from (number for number, line in enumerate(text.split(_SEPARATOR)) if line.count(word) > allowed)

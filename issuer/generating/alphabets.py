"""Alphabets: the characters that codes are drawn from, given by name or listed."""

from __future__ import annotations

import unicodedata
from collections import Counter
from enum import StrEnum
from string import ascii_uppercase, digits
from typing import Final

MAX_ALPHABET_CHARACTERS: Final = 16_384


class AlphabetName(StrEnum):
    """The named alphabets."""

    NUMERIC = "numeric"
    ALPHABETIC = "alphabetic"
    ALPHANUMERIC = "alphanumeric"
    UNAMBIGUOUS = "unambiguous"


# UNAMBIGUOUS has no characters that look alike (0 and O; 1, I and L), and no U, as in Crockford's base 32: that avoids
# words, and leaves an even number of characters, which the check character needs.
_NAMED: Final[dict[str, str]] = {
    AlphabetName.NUMERIC: digits,
    AlphabetName.ALPHABETIC: ascii_uppercase,
    AlphabetName.ALPHANUMERIC: digits + ascii_uppercase,
    AlphabetName.UNAMBIGUOUS: "23456789ABCDEFGHJKMNPQRSTVWXYZ",
}

_FORBIDDEN: Final = {
    "Cc": "control characters",
    "Cf": "invisible characters",
    "Cn": "characters that Unicode does not define",
    "Co": "characters for private use",
    "Cs": "surrogates",
    "Zl": "whitespace",
    "Zp": "whitespace",
    "Zs": "whitespace",
}


class AlphabetError(ValueError):
    """The characters are not a valid alphabet. The message is written for the person who chose them."""


def alphabet_spelling(alphabet: str) -> str:
    """Return the canonical spelling: a name in lower case, other characters composed (NFC)."""
    return alphabet.lower() if alphabet.lower() in _NAMED else unicodedata.normalize("NFC", alphabet)


def alphabet_characters(alphabet: str) -> str:
    """Return the characters of a named alphabet, or of any other text in the given order. Raises AlphabetError."""
    characters = alphabet_spelling(alphabet)
    if characters in _NAMED:
        return _NAMED[characters]
    if (problem := find_text_problem(characters)) is not None:
        raise AlphabetError(problem)
    if any(joins(character) for character in characters):
        raise AlphabetError("must not contain combining marks")
    if not 2 <= len(characters) <= MAX_ALPHABET_CHARACTERS:
        raise AlphabetError(
            f"must have 2 to {MAX_ALPHABET_CHARACTERS:,} characters, or be one of {', '.join(AlphabetName)}"
        )
    if len(set(characters)) != len(characters):
        twice = Counter(characters).most_common(1)[0][0]
        raise AlphabetError(f"contains {twice!r} more than once")
    return characters


def find_text_problem(text: str) -> str | None:
    """Return why this text cannot be part of a code; None if it can."""
    for character in text:
        if (what := _FORBIDDEN.get(unicodedata.category(character))) is not None:
            return f"must not contain {what}"
    return None


def joins(character: str) -> bool:
    """Return whether a character combines with the one before it: combining marks, vowels and finals of old Hangul."""
    return (
        unicodedata.category(character).startswith("M")
        or "\u1160" <= character <= "\u11ff"
        or "\ud7b0" <= character <= "\ud7ff"
    )

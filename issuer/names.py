"""Names of batches and API keys, which people choose, and texts that are shown to people.

A character that is not seen can make two names look alike, or reverse the rest of a line, so names have none. Two that
scripts and emoji need are allowed where they have an effect: a joiner (ZWJ, ZWNJ) between two letters, marks or symbols
beyond ASCII, and a variation selector behind a visible character.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_NAME: Final = 255

# Control characters, lone surrogates (which UTF-8 cannot encode) and the two separators that terminals break lines at.
_CONTROL: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Beside them: formats, such as marks that change the direction of text, and characters of private fonts.
_UNSEEN: Final = _CONTROL | {"Cf", "Co"}
# Letters, marks and symbols without a shape.
_BLANK: Final = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_JOINERS: Final = "\u200c\u200d"
_JOINED: Final = frozenset("LMS")
"""Categories of the characters that joiners join, by their first letter."""

_DOT_SEGMENT: Final = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|$)")


def text_problem(text: str) -> str | None:
    """Return why this cannot be a text, as a message for the caller that calls it `name`; None: it can."""
    if not text.strip():
        return "name must not be empty"
    if len(text) > MAX_NAME:
        return f"name must have at most {MAX_NAME} characters"
    # The common case, checked first: no printable character is forbidden.
    if text.isprintable():
        return None
    if any(unicodedata.category(character) in _CONTROL for character in text):
        return "name must not contain control characters"
    return None


def name_problem(name: str) -> str | None:
    """Return why this cannot be a name, as a message for the caller; None: it can."""
    problem = text_problem(name)
    if problem is not None:
        return problem
    unseen = first_unseen(name)
    return None if unseen is None else f"name must not contain invisible characters, such as {unseen}"


def first_unseen(text: str, *, spaces: bool = False) -> str | None:
    """Return a character that is not seen, its name and its place, for people: `U+200B ZERO WIDTH SPACE at 3`.

    None: there is none. With `spaces` also one that looks like a space and is none.
    """
    if text.isascii() and text.isprintable():
        return None
    unseen = _unseen(text)
    for place, character in enumerate(text):
        if place in unseen or (spaces and character != " " and character.isspace()):
            named = f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
            return f"{named} at {place + 1}"
    return None


def trimmed(text: str) -> str:
    """Return the text without white space and without characters that are not seen at its ends."""
    if text.isascii() and text.isprintable():
        return text.strip(" ")
    start, end = 0, len(text)
    while start < end and _is_trimmed(text[start]):
        start += 1
    while end > start and _is_trimmed(text[end - 1]):
        end -= 1
    # A selector belongs to the visible character before it.
    return text[start : end + (start < end < len(text) and _is_selector(text[end]))]


def without_unseen(text: str) -> str:
    """Return the text as look-ups of codes read it: trimmed, and without what is not seen between the others."""
    text = trimmed(text)
    unseen = _unseen(text)
    return text if not unseen else "".join(character for place, character in enumerate(text) if place not in unseen)


def visible(text: str) -> str:
    """Return the text for people: what is not seen in it is written as `\\u202e`. Line feeds and tabs stay."""
    unseen = _unseen(text)
    if not unseen:
        return text
    return "".join(
        character.encode("unicode_escape").decode() if place in unseen and character not in "\n\t" else character
        for place, character in enumerate(text)
    )


def _unseen(text: str) -> set[int]:
    """Return the places of the characters that are not seen and have no effect on their neighbours."""
    if text.isascii() and text.isprintable():
        return set()
    return {
        place
        for place, character in enumerate(text)
        if _is_unseen(character)
        and not (character in _JOINERS and _joins(text, place))
        and not (_is_selector(character) and _selects(text, place))
    }


def _is_trimmed(character: str) -> bool:
    return character.isspace() or _is_unseen(character)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN or character in _BLANK or _is_selector(character)


def _joins(text: str, place: int) -> bool:
    before, behind = text[place - 1 : place], text[place + 1 : place + 2]
    return all(side and not side.isascii() and unicodedata.category(side)[0] in _JOINED for side in (before, behind))


def _selects(text: str, place: int) -> bool:
    before = text[place - 1 : place]
    return bool(before) and not before.isspace() and not _is_selector(before)


def _is_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def has_dot_segment(text: str) -> bool:
    """Return whether a part between slashes or backslashes is `.` or `..`. Proxies and clients remove such parts."""
    return _DOT_SEGMENT.search(text) is not None

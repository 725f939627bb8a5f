"""The format of generated codes, and the size of its code space."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby, zip_longest
from typing import Any, Final

import orjson

from issuer.generating.alphabets import (
    AlphabetError,
    AlphabetName,
    alphabet_characters,
    alphabet_spelling,
    find_text_problem,
    joins,
)
from issuer.generating.word_filter import WordsError, built_in_words, check_words

DEFAULT_LENGTH: Final = 12
MAX_CHARACTERS: Final = 255
"""Characters of a whole code."""
MAX_CODES: Final = 10_000_000
"""Codes of one request; more codes need several requests."""
PLACE: Final = "#"
PLACE_MARK: Final = "\x01"
"""Stands for a place where # may be a character of the code. No code has control characters."""
SPACE_FACTOR: Final = 10
"""A code space must have at least this many times the requested codes."""
SAFE_ATTEMPTS: Final = 1_000_000
"""Attempts per hit, of a client that tries random codes, below which `check_space` warns."""
FIELDS: Final = ("length", "prefix", "suffix", "pattern", "alphabet", "check", "unlucky", "unlucky_words")


class CodeFormatError(ValueError):
    """A field of the format is invalid. The message names `field` and is written for a person."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class CodeSpaceError(ValueError):
    """The format has too few codes for the requested count. `length` is the smallest that suffices."""

    def __init__(self, message: str, length: int) -> None:
        super().__init__(message)
        self.length = length


@dataclass(frozen=True)  # no slots: derived values are cached
class CodeFormat:
    """The format of generated codes. Raises CodeFormatError if it is invalid.

    Either a `pattern`, in which each # is a place for a character of the alphabet and all other text is fixed, or
    `length` such places (default 12) between `prefix` and `suffix`. `alphabet` is a name (numeric, alphabetic,
    alphanumeric, unambiguous) or the characters themselves. With `check` the last place has the check character of the
    other places (Luhn mod N). `unlucky` excludes codes with a word of the built-in list, `unlucky_words` codes with one
    of these words; both may be given. Texts are stored composed (NFC).
    """

    length: int | None = None
    prefix: str = ""
    suffix: str = ""
    pattern: str | None = None
    alphabet: str = AlphabetName.UNAMBIGUOUS.value
    check: bool = False
    unlucky: bool = True
    unlucky_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix", "pattern"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, _check_text(name, text))
        if self.pattern is not None:
            for name in ("length", "prefix", "suffix"):
                if getattr(self, name) not in (None, ""):
                    raise CodeFormatError(name, "cannot be given beside a pattern")
            if PLACE not in self.pattern:
                raise CodeFormatError("pattern", f"needs at least one {PLACE}, the place of a character")
        elif self.length is None:
            object.__setattr__(self, "length", DEFAULT_LENGTH)
        try:
            object.__setattr__(self, "alphabet", alphabet_spelling(self.alphabet))
            size = len(self.characters)
        except AlphabetError as error:
            raise CodeFormatError("alphabet", str(error)) from error
        try:
            object.__setattr__(self, "unlucky_words", check_words(self.unlucky_words))
        except WordsError as error:
            raise CodeFormatError("unlucky_words", str(error)) from error
        self._check_places(size)

    def _check_places(self, size: int) -> None:
        field = "length" if self.pattern is None else "pattern"
        if not 1 <= self.places <= MAX_CHARACTERS:
            raise CodeFormatError("length", f"must be 1 to {MAX_CHARACTERS}")
        if self.places + sum(map(len, self.fixed)) > MAX_CHARACTERS:
            raise CodeFormatError(field, f"makes codes of more than {MAX_CHARACTERS} characters")
        if any(joins(text[0]) for text in self.fixed[1:] if text):
            raise CodeFormatError(
                "suffix" if self.pattern is None else "pattern", "has a combining mark behind a drawn character"
            )
        if self.check and size % 2:
            raise CodeFormatError(
                "check", f"needs an alphabet with an even number of characters; this one has {size:,}"
            )
        if self.check and self.places < 2:
            raise CodeFormatError("check", "needs at least two places: one to check, one for the check character")

    @cached_property
    def characters(self) -> str:
        """The characters of the alphabet."""
        return alphabet_characters(self.alphabet)

    @property
    def places(self) -> int:
        """Drawn characters of each code, including the check character."""
        return (self.length or 0) if self.pattern is None else self.pattern.count(PLACE)

    @cached_property
    def fixed(self) -> tuple[str, ...]:
        """The fixed text before, between and after the groups of places."""
        if self.pattern is None:
            return self.prefix, self.suffix
        texts = [""]
        for is_place, run in groupby(self.pattern, PLACE.__eq__):
            if is_place:
                texts.append("")
            else:
                texts[-1] = "".join(run)
        return tuple(texts)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The number of places of each group, one for each gap in `fixed`."""
        if self.pattern is None:
            return (self.places,)
        return tuple(len(list(run)) for is_place, run in groupby(self.pattern, PLACE.__eq__) if is_place)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words that no code contains."""
        return tuple(dict.fromkeys((*(built_in_words() if self.unlucky else ()), *self.unlucky_words)))

    @cached_property
    def shape(self) -> str:
        """A text like every code: the fixed text, with PLACE_MARK at the places."""
        marks = [PLACE_MARK * size for size in self.groups]
        return "".join(text + mark for text, mark in zip_longest(self.fixed, marks, fillvalue=""))

    @cached_property
    def spelling(self) -> str:
        """The identity of the set of codes that the format can spell, however the format is written.

        It does not depend on whether a pattern or a prefix is given, nor on the order and the name of the alphabet. A
        check character and unlucky words select among these codes, so they do not count.
        """
        return sha256(orjson.dumps([self.shape, "".join(sorted(self.characters))])).hexdigest()

    @property
    def space(self) -> int:
        """The number of codes of this format, including those with unlucky words."""
        space: int = len(self.characters) ** (self.places - self.check)
        return space

    def length_for(self, space: int) -> int:
        """Return the smallest number of places whose space has at least that many codes."""
        places, reached = int(self.check), 1
        while reached < space:
            places, reached = places + 1, reached * len(self.characters)
        return max(places, 1 + self.check)

    def check_space(self, count: int) -> str | None:
        """Check that `count` codes fit. Return a warning if a client that tries random codes would find one too soon.

        Raises CodeSpaceError if the space has fewer than 10 × count codes.
        """
        needed = SPACE_FACTOR * count
        if self.space < needed:
            length = self.length_for(needed)
            raise CodeSpaceError(
                f"there are {self.space:,} codes of this form, fewer than {SPACE_FACTOR} × {count:,}:"
                f" {self._length_text(length)} would do",
                length,
            )
        if count * SAFE_ATTEMPTS <= self.space:
            return None
        return (
            f"one in {self.space // count:,} codes of this format exists, more than one in {SAFE_ATTEMPTS:,}:"
            f" {self._length_text(self.length_for(SAFE_ATTEMPTS * count))} is safe"
        )

    def _length_text(self, places: int) -> str:
        return f"a length of {places}" if self.pattern is None else f"a pattern with {places} places ({PLACE})"

    def to_json(self) -> dict[str, Any]:
        """Return the format as JSON; `parse_code_format` reads it back unchanged."""
        text: dict[str, Any] = (
            {"length": self.length, "prefix": self.prefix, "suffix": self.suffix}
            if self.pattern is None
            else {"pattern": self.pattern}
        )
        return {
            **text,
            "alphabet": self.alphabet,
            "check": self.check,
            "unlucky": self.unlucky,
            "unlucky_words": list(self.unlucky_words),
        }


def parse_code_format(values: Mapping[str, object]) -> CodeFormat:
    """Return the format of decoded JSON; absent or null fields get their default. Raises CodeFormatError."""
    for name in values:
        if name not in FIELDS:
            raise CodeFormatError(repr(name[:40]), f"is no field of a code format; known are {', '.join(FIELDS)}")
    fields = {name: value for name, value in values.items() if value is not None}
    for name, value in fields.items():
        _check_type(name, value)
    if "unlucky_words" in fields:
        fields["unlucky_words"] = tuple(fields["unlucky_words"])  # type: ignore[arg-type]
    return CodeFormat(**fields)  # type: ignore[arg-type]


def format_text(code_format: CodeFormat) -> str:
    """Return a format as the JSON text that Postgres stores."""
    return orjson.dumps(code_format.to_json()).decode()


def _check_type(name: str, value: object) -> None:
    if name == "length":
        # bool is a subclass of int, but true is not a length.
        if isinstance(value, bool) or not isinstance(value, int):
            raise CodeFormatError(name, "must be a whole number")
    elif name in ("check", "unlucky"):
        if not isinstance(value, bool):
            raise CodeFormatError(name, "must be true or false")
    elif name == "unlucky_words":
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(w, str) for w in value):
            raise CodeFormatError(name, "must be a list of strings")
    elif not isinstance(value, str):
        raise CodeFormatError(name, "must be a string")


def _check_text(name: str, text: str) -> str:
    if (problem := find_text_problem(text)) is not None:
        raise CodeFormatError(name, problem)
    if len(text) > MAX_CHARACTERS:
        raise CodeFormatError(name, f"must have at most {MAX_CHARACTERS} characters")
    return unicodedata.normalize("NFC", text)

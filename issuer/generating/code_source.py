"""Draw codes from the operating system's random numbers."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from issuer.generating.code_format import CodeFormat
from issuer.generating.luhn import LuhnModN
from issuer.generating.word_filter import WordFilter

BATCH_SIZE: Final = 10_000
"""Codes drawn at a time: about 10 ms. It bounds the memory, whatever the count."""
_BYTE: Final = 256
_TWO_BYTES: Final = 65_536
_MAX_REDRAWS: Final = 100
SAMPLE_SIZE: Final = 1_000
"""Codes of a sample, and codes drawn at least when refused ones are replaced: a few at a time would take too long."""
_SAMPLE_CHARACTERS: Final = 50_000
_SMALLEST_SAMPLE: Final = 200
"""A sample of long codes is smaller: what it costs grows with its characters."""
MIN_SHARE: Final = 0.2
"""Share of the codes that the unlucky words must leave. A code space has ten times the requested codes, so twice as
many codes as needed are left, and replacing the refused codes takes a bounded time."""
_FAILED_SHARE: Final = MIN_SHARE / 2
"""Below this, drawing is given up. Far enough from MIN_SHARE that an accepted format never reaches it by chance."""
_FEW: Final = "fewer unlucky words or a larger code space would do"


class FewCodesError(Exception):
    """Too many of the drawn codes are refused: the unlucky words leave too few, or nearly all of them are used."""


class CodeSource:
    """A source of codes of one format, all equally likely.

    Codes of one call are distinct; two calls may return the same.
    """

    def __init__(self, code_format: CodeFormat) -> None:
        self._format = code_format
        self._drawn = code_format.places - code_format.check
        self._characters = character_source(code_format.characters)
        self._luhn = LuhnModN(code_format.characters) if code_format.check else None
        self.sample_size = max(_SMALLEST_SAMPLE, min(SAMPLE_SIZE, _SAMPLE_CHARACTERS // code_format.places))
        self._filter = WordFilter(code_format.words, code_format.characters, code_format.fixed)

    def chunks(self, count: int) -> Iterator[Sequence[str]]:
        """Yield `count` codes, BATCH_SIZE at a time."""
        for done in range(0, count, BATCH_SIZE):
            yield self.draw(min(BATCH_SIZE, count - done))

    def draw(self, count: int) -> Sequence[str]:
        """Return `count` different codes, all in memory; for many codes use `chunks`.

        Raises FewCodesError if that takes too many attempts.
        """
        codes: dict[str, None] = {}
        drawn = accepted = 0
        for redraw in range(_MAX_REDRAWS):
            size = max(count - len(codes), self.sample_size if redraw else 1)
            found = self._draw_filtered(size)
            drawn, accepted = drawn + size, accepted + len(found)
            codes.update(dict.fromkeys(found))
            if len(codes) >= count:
                return list(codes)[:count]
            if drawn >= self.sample_size and accepted < _FAILED_SHARE * drawn:
                raise FewCodesError(f"{drawn - accepted:,} of {drawn:,} codes drawn have an unlucky word: {_FEW}")
        raise FewCodesError(f"nearly every code drawn is refused: {_FEW}")

    def check_share(self) -> None:
        """Check, by a sample, that the unlucky words leave enough codes. Raises FewCodesError.

        With a thousand words it takes about a tenth of a second, a fifth if the alphabet has thousands of characters.
        """
        if self._filter.is_idle:
            return
        size = self.sample_size
        found = len(self._draw_filtered(size))
        if found < MIN_SHARE * size:
            raise FewCodesError(
                f"only {found:,} of {size:,} codes drawn have no unlucky word,"
                f" fewer than one in {round(1 / MIN_SHARE)}: {_FEW}"
            )

    def _draw_filtered(self, count: int) -> Sequence[str]:
        """Draw `count` codes and return those without unlucky words."""
        return self._filter.without(self._fill(self._draw_bodies(count)))

    def _draw_bodies(self, count: int) -> list[str]:
        """Draw the characters at the places of each code."""
        length = self._drawn
        text = self._characters(count * length)
        bodies = [text[start : start + length] for start in range(0, count * length, length)]
        if self._luhn is not None:
            character = self._luhn.character
            bodies = [body + character(body) for body in bodies]
        return bodies

    def _fill(self, bodies: list[str]) -> list[str]:
        """Return the bodies with the fixed text around and between their groups."""
        fixed, groups = self._format.fixed, self._format.groups
        if not any(fixed):
            return bodies
        if len(groups) == 1:
            return [f"{fixed[0]}{body}{fixed[1]}" for body in bodies]
        ends = [sum(groups[: place + 1]) for place in range(len(groups))]
        starts = [0, *ends]
        template = "%s".join(text.replace("%", "%%") for text in fixed)
        parts = [[body[start:end] for body in bodies] for start, end in zip(starts, ends, strict=False)]
        return [template % filling for filling in zip(*parts, strict=True)]


def draw_code(code_format: CodeFormat) -> str:
    """Draw one code, in milliseconds: call it in a thread. Raises FewCodesError."""
    return CodeSource(code_format).draw(1)[0]


def draw_checked(code_format: CodeFormat) -> str:
    """Check what the unlucky words leave (`check_share`), then draw one code: call it in a thread.

    Raises FewCodesError.
    """
    source = CodeSource(code_format)
    source.check_share()
    return source.draw(1)[0]


def character_source(characters: str) -> Callable[[int], str]:
    """Return a function that returns the given number of random characters.

    Random numbers above the last whole multiple of the alphabet's size are discarded, so all characters are equally
    likely (rejection sampling).
    """
    size = len(characters)
    return _from_bytes(characters) if size <= _BYTE else _from_pairs(characters)


def _from_bytes(characters: str) -> Callable[[int], str]:
    size = len(characters)
    limit = _BYTE - _BYTE % size
    table = "".join(characters[value % size] for value in range(_BYTE))
    beyond = bytes(range(limit, _BYTE))

    def draw(count: int) -> str:
        # Both steps run in C, whatever the characters are.
        numbers = b""
        while len(numbers) < count:
            missing = (count - len(numbers)) * _BYTE // limit + 16
            numbers += secrets.token_bytes(missing).translate(None, beyond)
        return codecs.charmap_decode(numbers[:count], "strict", table)[0]

    return draw


def _from_pairs(characters: str) -> Callable[[int], str]:
    size = len(characters)
    limit = _TWO_BYTES - _TWO_BYTES % size

    def draw(count: int) -> str:
        drawn: list[str] = []
        while len(drawn) < count:
            numbers = memoryview(secrets.token_bytes(2 * (count - len(drawn)) + 32)).cast("H")
            drawn += [characters[number % size] for number in numbers if number < limit]
        return "".join(drawn[:count])

    return draw

"""Draws codes from the operating system's random numbers."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from issuer.generating.code_format import CodeFormat
from issuer.generating.luhn import LuhnModN
from issuer.generating.unlucky import WordFilter

BATCH_SIZE: Final = 10_000
"""Codes drawn at a time: some ten ms, and the memory that a production takes whatever its count."""
_BYTE: Final = 256
_TWO_BYTES: Final = 65_536
_TRIES: Final = 100
_AGAIN: Final = 1_000
"""Codes drawn at least when some must be drawn again: where most are refused, a few at a time would take for ever."""


class FewCodesError(Exception):
    """Nearly every code that is drawn is refused: the unlucky words leave too few, or nearly all are taken."""


class CodeSource:
    """Codes of one format, each as likely as any other. Not the same one twice in one call; two calls may repeat."""

    def __init__(self, code_format: CodeFormat) -> None:
        self._format = code_format
        self._drawn = code_format.places - code_format.check
        self._characters = character_source(code_format.characters)
        self._luhn = LuhnModN(code_format.characters) if code_format.check else None
        self._filter = WordFilter(code_format.words, code_format.characters, code_format.fixed)

    def chunks(self, count: int) -> Iterator[Sequence[str]]:
        """`count` codes, BATCH_SIZE at a time."""
        for done in range(0, count, BATCH_SIZE):
            yield self.draw(min(BATCH_SIZE, count - done))

    def draw(self, count: int) -> Sequence[str]:
        """`count` different codes. They are all in memory: for many use `chunks`.

        Raises FewCodesError when that is not to be had in a reasonable time.
        """
        codes = dict.fromkeys(self._some(count))
        for _ in range(_TRIES):
            if len(codes) >= count:
                return list(codes)[:count]
            codes.update(dict.fromkeys(self._some(max(count - len(codes), _AGAIN))))
        raise FewCodesError("nearly every code drawn is refused: fewer unlucky words or a larger code space would do")

    def _some(self, count: int) -> Sequence[str]:
        """`count` codes but for those with words."""
        return self._filter.without(self._fill(self._bodies(count)))

    def _bodies(self, count: int) -> list[str]:
        """The characters at the places of each code."""
        length = self._drawn
        text = self._characters(count * length)
        bodies = [text[start : start + length] for start in range(0, count * length, length)]
        if self._luhn is not None:
            character = self._luhn.character
            bodies = [body + character(body) for body in bodies]
        return bodies

    def _fill(self, bodies: list[str]) -> list[str]:
        """The bodies with the fixed text around and between their groups."""
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
    """One code. Raises FewCodesError."""
    return CodeSource(code_format).draw(1)[0]


def character_source(characters: str) -> Callable[[int], str]:
    """A function that returns as many random characters as it is asked for.

    A random number that lies beyond the last whole multiple of the alphabet's size is thrown away, not folded back:
    so no character is likelier than another.
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
        taken = b""
        while len(taken) < count:
            wanted = (count - len(taken)) * _BYTE // limit + 16
            taken += secrets.token_bytes(wanted).translate(None, beyond)
        return codecs.charmap_decode(taken[:count], "strict", table)[0]

    return draw


def _from_pairs(characters: str) -> Callable[[int], str]:
    size = len(characters)
    limit = _TWO_BYTES - _TWO_BYTES % size

    def draw(count: int) -> str:
        taken: list[str] = []
        while len(taken) < count:
            numbers = memoryview(secrets.token_bytes(2 * (count - len(taken)) + 32)).cast("H")
            taken += [characters[number % size] for number in numbers if number < limit]
        return "".join(taken[:count])

    return draw

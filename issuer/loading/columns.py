"""The columns of a file of codes: its header names them, in any order and in the spellings that people use."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from issuer.loading.errors import HeaderRowError, PreloadError
from issuer.names import name_problem, visible

CODE_NAMES: Final = ("code", "codes", "coupon code", "voucher code", "promo code", "discount code")
CLIENT_NAMES: Final = ("client_id", "client")
"""What a column may be called, the best name first. Case, spaces, dashes and underscores do not matter."""
SEPARATORS: Final = (b",", b";", b"\t")
MAX_ATTRIBUTES: Final = 16
_MAX_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Columns:
    """The number of columns, and the positions of the code, the client (None: there is no such) and attributes."""

    width: int
    code: int
    client: int | None
    attributes: Sequence[int] = ()

    def fit(self, fields: Sequence[str]) -> bool:
        """Return whether a row of several lines is plausible: its line breaks are in ignored columns only."""
        positions = (self.code, self.code if self.client is None else self.client, *self.attributes)
        used = [fields[at] for at in positions if at < len(fields)]
        return len(fields) == self.width and not any("\n" in field for field in used)


def parse_attributes(text: str) -> Sequence[str]:
    """Return the names of the attributes in a list with commas, `pin, seat`. Raises PreloadError."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if len(names) > MAX_ATTRIBUTES:
        raise PreloadError(f"attributes: at most {MAX_ATTRIBUTES}")
    for name in names:
        if (problem := name_problem(name)) is not None:
            raise PreloadError(f"attributes: {problem}")
    if len({_key(name) for name in names} - {""}) != len(names):
        raise PreloadError("attributes: each needs a name of its own, with letters or digits")
    return names


def find_columns(cells: Sequence[str], *, needs_client: bool, attributes: Sequence[str] = ()) -> Columns:
    """Return the columns that a header row names. Raises HeaderRowError, also for a missing client if one is needed."""
    keys = [_key(cell) for cell in cells]
    code, client = _find(cells, keys, CODE_NAMES), _find(cells, keys, CLIENT_NAMES)
    if code is None or (client is None and needs_client):
        raise HeaderRowError(_advice(cells, keys, needs_client=needs_client), needs_client=needs_client)
    return Columns(len(cells), code, client, [_find_attribute(cells, keys, name) for name in attributes])


def split_header(
    line: bytes, separator: bytes | None, find: Callable[[Sequence[str]], Columns]
) -> tuple[Columns, bytes]:
    """Return the columns that `find` finds in a header line and its separator: the given one, or the first that fits.

    Raises HeaderRowError.
    """
    text = line.decode("utf-8", "replace")
    best: HeaderRowError | None = None
    most = 0
    for candidate in SEPARATORS if separator is None else (separator,):
        try:
            cells = next(csv.reader([text], strict=True, skipinitialspace=True, delimiter=candidate.decode()))
        except csv.Error:
            continue
        try:
            return find(cells), candidate
        except HeaderRowError as error:
            # Of several ways to read the line, the one with most cells shows best what it has.
            if len(cells) > most:
                best, most = error, len(cells)
    raise best or no_header("the quotes of the first line do not match")


def no_header(reason: str) -> HeaderRowError:
    """Return the error for a file without a first row that can be read."""
    return HeaderRowError(f"the file has no header: {reason}")


def empty_file() -> HeaderRowError:
    """Return the error for a file without any row."""
    return no_header("it is empty")


def _key(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _find(cells: Sequence[str], keys: Sequence[str], names: Sequence[str]) -> int | None:
    for name in names:
        places = [place for place, key in enumerate(keys) if key == _key(name)]
        if len(places) > 1:
            raise HeaderRowError(f"the file has more than one column {cells[places[0]].strip()!r}")
        if places:
            return places[0]
    return None


def _find_attribute(cells: Sequence[str], keys: Sequence[str], name: str) -> int:
    place = _find(cells, keys, (name,))
    if place is None:
        raise HeaderRowError(f"there is no column for the attribute {name!r}; {_found(cells)}")
    return place


def _found(cells: Sequence[str]) -> str:
    shown = ", ".join(repr(visible(cell.strip())[:40]) for cell in cells[:_MAX_SHOWN] if cell.strip())
    return f"the first row has {shown or 'no names'}"


def _advice(cells: Sequence[str], keys: Sequence[str], *, needs_client: bool) -> str:
    wanted = "the columns 'code' and 'client_id'" if needs_client else "a column 'code'"
    is_header = any(_key(name) in keys for name in (*CODE_NAMES, *CLIENT_NAMES))
    advice = [f"the file needs {wanted}", _found(cells) + ("" if is_header else ": is the header line missing?")]
    advice.append(f"understood for the code: {', '.join(CODE_NAMES)}")
    if needs_client:
        advice.append(f"understood for the client: {', '.join(CLIENT_NAMES)}")
    return "; ".join(advice)

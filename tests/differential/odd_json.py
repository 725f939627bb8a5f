"""JSON objects as text, good ones and odd ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from tests.differential.case import Draw

Members = list[tuple[str, str]]
"""Name and value of each member, both as JSON text."""

UNPAIRED: Final = '"\\ud800"'


def members_of(**values: object) -> Members:
    """Members of an object; what is None is left out."""
    return [(json.dumps(name), json.dumps(value)) for name, value in values.items() if value is not None]


def text_of(members: Members, separators: tuple[str, str] = (",", ":")) -> bytes:
    comma, colon = separators
    return ("{" + comma.join(f"{name}{colon}{value}" for name, value in members) + "}").encode()


def odd_uuids(text: str) -> tuple[str, ...]:
    """Values, as JSON text, that are an id in another form, or nearly one."""
    return (
        json.dumps(text.upper()),
        json.dumps(text.replace("-", "")),
        json.dumps("{" + text + "}"),
        json.dumps("urn:uuid:" + text),
        json.dumps(f" {text}"),
        json.dumps(f"{text}\n"),
        json.dumps(text[:-1]),
        json.dumps(f"{text}0"),
        json.dumps(text[:-1] + "g"),
        json.dumps(text[:-1] + "１"),
        json.dumps(text[:-1] + "٣", ensure_ascii=False),
        json.dumps(text.replace("-", "‐")),
        '"' + "".join(f"\\u{ord(character):04x}" for character in text) + '"',
        '""',
        '"00000000-0000-0000-0000-000000000000"',
    )


ODD_VALUES: Final = (
    "null", "true", "false", "0", "1", "-1", "1.5", "1e400", "9" * 40, "-0", "[]", "{}", '["a"]', '{"a":1}', '""',
    '" "', '"é"', '"\\u0000"', '"\\ud83d\\ude00"', UNPAIRED, '"\\udc00"', '"a:b"', '"a\\"b"', '"\x01"',
    '"' + "x" * 300 + '"',
)  # fmt: skip
"""JSON texts that are no id and no code; some are no JSON."""


def _other_value(draw: Draw, members: Members) -> bytes:
    place = draw.random.randrange(len(members))
    name, value = members[place]
    text = json.loads(value) if value.startswith('"') else ""
    choices = odd_uuids(text) if len(text) == 36 and draw.happens(0.6) else ODD_VALUES
    return text_of([*members[:place], (name, draw.one_of(choices)), *members[place + 1 :]])


def _missing(draw: Draw, members: Members) -> bytes:
    place = draw.random.randrange(len(members))
    return text_of([*members[:place], *members[place + 1 :]])


def _escaped(name: str) -> str:
    """The same name with its first character as an escape."""
    return f'"\\u{ord(name[1]):04x}{name[2:]}'


def _duplicate(draw: Draw, members: Members) -> bytes:
    name, value = draw.one_of(members)
    again = _escaped(name) if draw.happens(0.3) else name
    other = value if draw.happens(0.4) else draw.one_of(('"x"', "null", f'"{draw.uuid()}"'))
    pair = [(name, value), (again, other)]
    if draw.happens(0.5):
        pair.reverse()
    rest = [member for member in members if member[0] != name]
    return text_of(pair + rest if draw.happens(0.5) else rest + pair)


def _duplicate_inside(draw: Draw, members: Members) -> bytes:
    """A name that is given twice where no route looks."""
    inside = draw.one_of(('{"a":1,"a":1}', '[{"a":1,"a":2}]', '{"a":{"b":1,"b":1}}'))
    return text_of([*members, ('"more"', inside)])


def _unknown(draw: Draw, members: Members) -> bytes:
    name = draw.one_of(
        ('"more"', '""', '"Code"', '"é"', UNPAIRED, '"\\u0000"', '"batch_id"', '"batchId"', '"' + "y" * 60 + '"')
    )
    member = (name, draw.one_of(ODD_VALUES))
    return text_of([member, *members] if draw.happens(0.5) else [*members, member])


def _escaped_name(draw: Draw, members: Members) -> bytes:
    place = draw.random.randrange(len(members))
    name, value = members[place]
    return text_of([*members[:place], (_escaped(name), value), *members[place + 1 :]])


def _nested(draw: Draw, members: Members) -> bytes:
    depth = draw.one_of((10, 100, 300, 500, 1_100, 1_900))
    opening, closing = draw.one_of((("[", "]"), ('{"a":', "}")))
    if len(opening) * depth > 3_500:
        depth = 500
    middle = "1" if opening != "[" else ""
    return text_of([*members, ('"more"', opening * depth + middle + closing * depth)])


def _spaced(draw: Draw, members: Members) -> bytes:
    return text_of(members, draw.one_of(((", ", ": "), ("\n,\r\n", "\t:\t"), (",\x0b", ":"), (",\xa0", ":"))))


def _around(draw: Draw, members: Members) -> bytes:
    text = text_of(members)
    before = draw.one_of((b"", b"", b" ", b"\r\n\t", b"\xef\xbb\xbf", b"\x00", b"\x0b", b"\x0c", b"\xc2\xa0", b"\x85"))
    behind = draw.one_of(
        (b"", b" ", b"\n", b"\x00", b"\x0b", b"\x0c", b"\xc2\xa0", b"}", b",", b"x", b"{}", b"\x1a", b" " * 4_200)
    )
    return before + text + behind


def _encoded(draw: Draw, members: Members) -> bytes:
    text = text_of(members).decode()
    return text.encode(draw.one_of(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7")))


def _broken(draw: Draw, members: Members) -> bytes:
    text = text_of(members)
    return draw.one_of((
        text[:-1], text[1:], text.replace(b'"', b"'"), text[:-1] + b",}", b"[" + text + b"]",
        text.replace(b":", b"=", 1),
        text.replace(b'"', b'"\xff', 1), text.replace(b'":"', b'":"\xc3\xa9', 1), text.replace(b'":"', b'":"\xff', 1),
        text.replace(b'":"', b'":"\xed\xa0\x80', 1), text[:-1] + b',"n":NaN}', text[:-1] + b',"n":-Infinity}',
        text[:-1] + b',"n":01}', text[:-1] + b"/**/}", b"null", b'""', b"5", b"[]", b"{}", b"", b" ", b"true",
        b"{", b"nul",
        b'"a"', b"\x1f\x8b\x08", b"{\x00}",
    ))  # fmt: skip


ODD_TEXTS: Final[dict[Callable[[Draw, Members], bytes], int]] = {
    _other_value: 30,
    _missing: 8,
    _duplicate: 12,
    _duplicate_inside: 3,
    _unknown: 8,
    _escaped_name: 3,
    _nested: 3,
    _spaced: 4,
    _around: 8,
    _encoded: 2,
    _broken: 14,
}


def odd_text(draw: Draw, members: Members) -> bytes:
    """An object with these members, written in an odd way, or something that is no such object."""
    return draw.weighted(ODD_TEXTS)(draw, members)

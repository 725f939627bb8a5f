"""JSON objects are read strictly, whichever way the quick check and the second reading share the work."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from issuer.http.strict_json import InvalidJsonError, parse_object


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        ' {"a": 1}\n',
        '{"a":1,"b":"x"}',
        '{"a":"10:30:00"}',
        '{"a:b":1,"c":"https://x"}',
        '{"a":{"b":1},"c":[{"b":1},{"b":2}]}',
        '{"a":{"a":{"a":1}}}',
        '{"\\u0061":1,"b":"\\ud83d\\ude00"}',
        '{"a":"\\"b\\":"}',
        '{"":1}',
        '{"a":1e300,"b":-0,"c":null}',
    ],
)
def test_objects_are_read_as_the_json_module_reads_them(text: str) -> None:
    assert parse_object(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":1}',
        b'{"a" : 1 , "a" : 1}',
        b'{"a":"x:y","a":1}',
        b'{"b":1,"c":{"a":1,"a":1}}',
        b'{"b":[{"a":1,"a":1}]}',
        b'{"a":{},"a":{}}',
        b'{"a":1,"a":{"b":1}}',
    ],
    ids=repr,
)
def test_a_name_that_is_given_twice_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJsonError, match="given twice"):
        parse_object(text)


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"}", b"[]", b"null", b"5", b'"a"', b"{}{}", b"{} x", b"{}\x00", b"{}\x0b", b"\x0b{}",
        b"\xef\xbb\xbf" * 2 + b"{}", b" \xef\xbb\xbf{}", b"\xef\xbb\xbf",
        '{"a":1}'.encode("utf-16"), b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e400}',
        b'{"a":"\\ud800"}', b'{"\\udc00":1}', b'{"a":"\\ud800\\u0041"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xff"}',
        b'{"a":"\x01"}', b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a"}', b"{a:1}",
        b'{"a":' + b"[" * 100_000, b'{"a":' + b"[" * 1_000 + b":" + b"]" * 1_000 + b"}",
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_what_is_no_strict_object_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        parse_object(text)


def test_a_byte_order_mark_in_front_is_ignored() -> None:
    assert parse_object(b'\xef\xbb\xbf{"a":"\xef\xbb\xbf"}') == {"a": "\ufeff"}
    with pytest.raises(InvalidJsonError, match="given twice"):
        parse_object(b'\xef\xbb\xbf{"a":1,"a":1}')


def test_exact_numbers_have_the_digits_that_were_written() -> None:
    text = b'\xef\xbb\xbf{"a":20,"b":20.10,"c":0.1,"d":1E2,"e":[1.50],"f":true}'
    found = parse_object(text, exact=True)
    assert [str(found[name]) for name in "abcd"] == ["20", "20.10", "0.1", "1E+2"]
    assert (str(found["e"][0]), found["f"]) == ("1.50", True)
    for odd in (b'{"a":1.5,"a":1.5}', b'{"a":NaN}', b'{"a":1e400}', b'{"a":1e-99999999999999999999}'):
        with pytest.raises(InvalidJsonError):
            parse_object(odd, exact=True)


def test_integers_beyond_the_second_reading_are_refused() -> None:
    """The object inside makes the text be read twice."""
    text: Any = b'{"b":1,"c":{"a":' + b"9" * 5_000 + b"}}"
    with pytest.raises(InvalidJsonError):
        parse_object(text)


def test_nesting_beyond_the_second_reading_raises_no_other_error() -> None:
    """How deep the json module reads depends on the version of Python."""
    text: Any = b'{"b":1,"c":' + b'{"a":' * 1_000 + b"1" + b"}" * 1_001
    with suppress(InvalidJsonError):
        parse_object(text)

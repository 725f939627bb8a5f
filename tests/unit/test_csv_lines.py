"""Lines of bounded length, independent of block boundaries."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from issuer.loading.bounded_lines import LINE_BYTES, OVERLONG, BoundedLines

pieces = st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"", b"d" * 9]), max_size=30)


def lines_of(blocks: list[bytes]) -> list[bytes]:
    reader = BoundedLines()
    found = [line for block in blocks for line in reader.feed(block)]
    return found + reader.finish()


@settings(deadline=None)
@given(pieces)
def test_lines_do_not_depend_on_blocks(blocks: list[bytes]) -> None:
    text = b"".join(blocks)
    first = re.search(rb"[\r\n]", text)
    if first is not None and first[0] == b"\r" and text[first.end() : first.end() + 1] not in (b"", b"\n"):
        text = text.replace(b"\r", b"\n")
    text = text.replace(b"\r\n", b"\n")
    expected = text.split(b"\n")
    if expected[-1]:
        expected[-1] = expected[-1].removesuffix(b"\r")
    expected = expected if expected[-1] or text.endswith(b"\r") else expected[:-1]
    assert lines_of(blocks) == expected


@settings(deadline=None)
@given(st.integers(LINE_BYTES - 2, LINE_BYTES + 2), st.integers(1, 3 * LINE_BYTES))
def test_an_overlong_line_is_detected_in_any_blocks(size: int, block: int) -> None:
    data = b"first\n" + b"x" * size + b"\nlast\n"
    blocks = [data[at : at + max(block, 1_000)] for at in range(0, len(data), max(block, 1_000))]
    middle = b"x" * size if size <= LINE_BYTES else OVERLONG
    assert lines_of(blocks) == [b"first", middle, b"last"]


def test_an_overlong_line_is_not_buffered() -> None:
    reader = BoundedLines()
    for _ in range(1_000):
        assert reader.feed(b"x" * LINE_BYTES) == []
    kept = reader._rest  # the one thing that could grow
    assert len(kept) <= LINE_BYTES
    assert reader.feed(b"y\nnext") == [OVERLONG]
    assert reader.finish() == [b"next"]


def test_an_overlong_last_line_is_reported() -> None:
    assert lines_of([b"x" * (3 * LINE_BYTES)]) == [OVERLONG]

"""docs/asvs.md has a row for each requirement of levels 1 and 2, and its summary counts them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from tests.support.sources import ROOT

STATES: Final = ("met", "not met", "n/a")
ROW: Final = re.compile(r"^\| ([0-9]+\.[0-9]+\.[0-9]+) \| [12] \| [^|]+ \| (met|not met|n/a) \| [^|]+ \|$")
SUMMARY: Final = re.compile(r"^\| (V[0-9]+ [^|]+|all [0-9]+) \| ([0-9]+) \| ([0-9]+) \| ([0-9]+) \|$")
REQUIREMENTS: Final = 253
"""Of levels 1 and 2 in version 5.0.0."""


def test_each_requirement_has_a_row_with_a_state_and_a_place() -> None:
    lines = (ROOT / "docs" / "asvs.md").read_text().splitlines()
    numbered = [line for line in lines if re.match(r"\| [0-9]", line)]
    assert [line for line in numbered if ROW.match(line) is None] == []
    numbers = [line.split(" | ")[0] for line in numbered]
    assert len(set(numbers)) == len(numbers) == REQUIREMENTS


def test_the_summary_counts_the_rows() -> None:
    lines = (ROOT / "docs" / "asvs.md").read_text().splitlines()
    rows = [found for line in lines if (found := ROW.match(line))]
    counted = Counter((row[1].partition(".")[0], row[2]) for row in rows)
    summary = {found[1]: tuple(map(int, found.groups()[1:])) for line in lines if (found := SUMMARY.match(line))}
    total = tuple(sum(count for (_, of), count in counted.items() if of == state) for state in STATES)
    assert summary.pop(f"all {len(rows)}") == total
    assert summary.keys() == {line.removeprefix("## ") for line in lines if line.startswith("## ")}
    for chapter, figures in summary.items():
        assert figures == tuple(counted[chapter.split()[0][1:], state] for state in STATES), chapter

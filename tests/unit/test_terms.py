"""docs/glossary.md defines each term once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
GLOSSARY: Final = ROOT / "docs" / "glossary.md"
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

TERMS: Final = (
    "client", "customer", "batch", "pool", "seq", "redemption", "coupon", "consumption", "reversal", "campaign",
    "generation job", "rate limit", "lease", "failed lookup", "ledger", "backlog", "bound", "dead letter",
    "quarantined", "anomaly", "high-water mark", "partition", "incarnation", "epoch", "blessed", "fence", "verdict",
    "receipt journal", "fast path", "ASGI path", "process", "maintenance task", "heartbeat", "void", "code hold",
)  # fmt: skip
"""What the glossary defines at the least."""

DEFINITION: Final = re.compile(r"^[-*] ((?:\*\*[^*]+\*\*(?:,\s+)?)+):", re.MULTILINE)
"""A line of a list that begins with one or more bold terms and a colon."""


def defined_in(text: str) -> list[str]:
    return [term for line in DEFINITION.findall(text) for term in re.findall(r"\*\*([^*]+)\*\*", line)]


def test_the_glossary_defines_each_term_once() -> None:
    counted = Counter(term.lower() for term in defined_in(GLOSSARY.read_text()))
    assert [term for term, count in counted.items() if count > 1] == []
    assert [term for term in TERMS if term.lower() not in counted] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != GLOSSARY], ids=lambda page: page.name)
def test_no_other_page_defines_a_term_of_the_glossary(page: Path) -> None:
    terms = {term.lower() for term in defined_in(GLOSSARY.read_text())}
    assert [term for term in defined_in(page.read_text()) if term.lower() in terms] == []


def test_a_second_definition_is_found() -> None:
    assert defined_in("text\n- **pool**: one\n- **seq**, **serial**: two\n- **not** a definition\n") == [
        "pool", "seq", "serial",
    ]  # fmt: skip

"""docs/glossary.md defines each term once, and the words that the terms replaced do not return."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.sources import ROOT, source_files

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

REPLACED: Final = {
    "short way": "fast path",
    "long way": "ASGI path",
    "(is|are|was|were|be|being|stays?) away": "unavailable",
    "who(so)?ever": "the client, the caller, any process",
    "(some|any|every)body": "a customer, a caller, every process",
    "nobodys?": "anonymous, without a customer id, no caller",
    "someone": "a customer, an operator",
    "who (asks|waits|guesses|has)": "the client, the request",
    "tells?|telling|told": "returns, reports, shows",
    "dies?|died|dying": "crashes, exits, is killed",
    "goes": "is sent to, is removed, continues",
    "lies|lay|lain": "is stored in, is",
    "anew": "again, rebuilt",
    "for ever": "indefinitely, without a limit",
    "so many": "that many, N",
    "of late": "recently",
    "giv(en|es?|ing) back": "reversed, returned",
    "miss(es)?(?= limit)|misses|(a|each|every|the) miss": "failed lookups",
    "guess(es|ed|er|ing|able)?": "enumeration, a failed lookup",
    "sets?( [a-z]+)? aside": "quarantined",
    "chores?": "maintenance task",
    "vitals?": "metrics",
    "riders?": "piggybacked commands",
    "signs? of life": "heartbeat",
    "hand(s|ed|ing)? outs?": "issue",
    "made up": "forged",
    "of ours": "our, the project's",
    "of its own accord": "by itself",
    "buried": "recorded as a dead letter",
}
"""Words and phrases, as regular expressions over words in lower case, and what stands in their place."""


@dataclass(frozen=True, slots=True)
class AllowedPlace:
    """Lines of a file in which a replaced word may stand."""

    path: str
    line: str
    reason: str


EXCEPTIONS: Final = (
    AllowedPlace("CHANGELOG.md", r"^\| .* \|$", "the table names the contract strings that were replaced"),
    AllowedPlace("tests/source/test_terms.py", r"", "this list and its examples"),
)


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


WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\sA-Za-z_'\"`#*/-]")
"""A word of a text or of an identifier in any case, or a mark that ends a phrase."""
REPLACED_PHRASE: Final = re.compile(rf"(?<![a-z])(?:{'|'.join(f'(?:{phrase})' for phrase in REPLACED)})(?![a-z])")


def replaced_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and phrase of each replaced word in prose, identifiers and strings, across line ends too."""
    if not REPLACED_PHRASE.search(" ".join(WORD.findall(text)).lower()):
        # So it is in nearly all files: only in the others it is of interest where a word is.
        return
    words, lines, starts, length = [], [], [], 0
    for number, line in enumerate(text.split("\n"), 1):
        for word in WORD.findall(line):
            words.append(word.lower())
            lines.append(number)
            starts.append(length)
            length += len(word) + 1
    line_at = dict(zip(starts, lines, strict=True))
    for found in REPLACED_PHRASE.finditer(" ".join(words)):
        yield line_at[found.start()], found[0]


def forbidden_in(path: Path) -> Iterator[str]:
    """Yield file, line and phrase of each replaced word that no exception allows."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text()
    lines = text.split("\n")
    allowed = [re.compile(one.line) for one in EXCEPTIONS if one.path == name]
    for number, phrase in replaced_words(text):
        if not any(line.search(lines[number - 1]) for line in allowed):
            yield f"{name}:{number}: {phrase!r}"


def test_replaced_words_do_not_return() -> None:
    assert [place for path in source_files() for place in forbidden_in(path)] == []


@pytest.mark.parametrize(
    "text",
    ["handed_out = 1", "class GivenBack:", "a code is handed\n    # out", "SET_ASIDE", "sets codes aside", "it dies"],
)
def test_a_replaced_word_is_found(text: str) -> None:
    assert len(list(replaced_words(text))) == 1


@pytest.mark.parametrize("text", ["relies on a lease", "the result. Away", "run_forever", "untold", "soldiers"])
def test_a_part_of_another_word_is_none(text: str) -> None:
    assert list(replaced_words(text)) == []


@pytest.mark.parametrize("place", EXCEPTIONS, ids=lambda place: place.path)
def test_every_exception_is_needed(place: AllowedPlace) -> None:
    text = (ROOT / place.path).read_text()
    lines = text.split("\n")
    assert any(re.search(place.line, lines[number - 1]) for number, _ in replaced_words(text)), place.reason

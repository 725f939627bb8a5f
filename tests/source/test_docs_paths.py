"""What the documentation names exists: files, folders, tests, scenarios, linked pages and headings."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from tests.faults import all_scenarios
from tests.faults.scenario import SCENARIOS
from tests.support.layers import LAYERS
from tests.support.sources import FOLDERS, ROOT

assert all_scenarios.LOADED

DOCS: Final = ROOT / "docs"
PAGES: Final = [
    page
    for page in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
    if page.name != "CHANGELOG.md" and page.parent.name != "benchmark"
]
"""CHANGELOG.md names what is gone, docs/benchmark is measured."""

SPAN: Final = re.compile(r"`([^`\n]+)`")
FILE: Final = re.compile(r"[\w./-]+\.(?:py|md|lua|sql|yml|toml|html|proto|svg)(?:::\w+)?")
FOLDER: Final = re.compile(r"\.?[\w-][\w./-]*/")
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
MADE_AT_RUN_TIME: Final = {".issuer/", "loadtest/results/", ".venv/"}
SAVED_BY_THE_READER: Final = {"shop.py"}
FILES: Final = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*")} | {
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts
}
FILE_NAMES: Final = {PurePosixPath(path).name for path in FILES}


def is_missing(span: str) -> bool:
    """Whether a code span names a file, folder or test of this repository that is not there."""
    if FOLDER.fullmatch(span):
        return span not in MADE_AT_RUN_TIME and not any(path.startswith(span) for path in FILES)
    if not FILE.fullmatch(span):
        return False
    path, _, test = span.partition("::")
    if "/" not in path:
        return path not in FILE_NAMES | SAVED_BY_THE_READER
    if path not in FILES:
        return True
    return bool(test) and f"def {test}(" not in (ROOT / path).read_text()


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_files_folders_and_tests_exist(page: Path) -> None:
    assert [span for span in SPAN.findall(page.read_text()) if is_missing(span)] == []


@pytest.mark.parametrize(
    "span", ["issuer/absent.py", "absent.lua", "issuer/absent/", "tests/unit/test_rules.py::test_no"]
)
def test_a_missing_path_is_found(span: str) -> None:
    assert is_missing(span)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_readme_or_a_page_it_links_leads_to_every_page() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text())
                 if not link.startswith(("http", "#"))]  # fmt: skip
    assert [page for page in PAGES if page not in seen] == []


def test_scenarios_exist() -> None:
    """A bare name in the last column of the reliability page is a scenario, and every scenario has its row."""
    rows = re.findall(r"^\|.*\| ([^|]+) \|$", (DOCS / "reliability.md").read_text(), re.MULTILINE)
    named = {span for row in rows for span in SPAN.findall(row) if re.fullmatch(r"[a-z0-9_]+", span)}
    assert named <= set(SCENARIOS)
    # A twin needs no name of its own.
    assert {name.removesuffix("_with_journal") for name in SCENARIOS} == {
        name.removesuffix("_with_journal") for name in named
    }


def test_the_layers_of_the_architecture_page_are_those_that_are_checked() -> None:
    section = (DOCS / "architecture.md").read_text().partition("\n## Layers\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|`]+ \| (`[^|]+`) \|", section, re.MULTILINE)
    existing = [
        [
            name
            for name in layer.split()
            if (ROOT / "issuer" / name).exists() or (ROOT / "issuer" / f"{name}.py").exists()
        ]
        for layer in LAYERS
    ]
    assert [SPAN.findall(row) for row in rows] == [[name for name in layer if name != "__main__"] for layer in existing]


def test_decisions_are_numbered_once_and_listed() -> None:
    pages = sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))
    assert len({name[:4] for name in pages}) == len(pages)
    titles = [(DOCS / "decisions" / name).read_text().partition("\n")[0].removeprefix("# ") for name in pages]
    assert [title[:4] for title in titles] == [name[:4] for name in pages]
    listed = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (DOCS / "decisions" / "README.md").read_text(), re.M)
    assert listed == [(title[:4], name, title[6:]) for name, title in zip(pages, titles, strict=True)]

"""The command blocks of the documentation, as one shell session for each page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_BLOCK: Final = re.compile(
    r"^(?:<!-- (?P<word>not run|file): (?P<note>.+?) -->\n)?```(?P<language>sh|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES: Final = tuple(
    str(path.relative_to(ROOT))
    for path in sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
    if _BLOCK.search(path.read_text())
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of `sh` or `python`.

    `not_run`: why no test runs it; the page says so in a comment above the block. `file`: the name under which the
    reader saves it.
    """

    page: str
    line: int
    text: str
    not_run: str
    file: str


def blocks_of(page: str) -> Iterator[Block]:
    """Return the blocks of a page in their order."""
    text = (ROOT / page).read_text()
    for found in _BLOCK.finditer(text):
        word, note = found["word"], found["note"] or ""
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["text"], note if word == "not run" else "", note if word == "file" else "")


def session_of(page: str) -> str:
    """Return what a reader of the page types, in one shell. A line that fails ends it."""
    # -e does not reach into the assignments of `export`, which no page uses for a command.
    parts = ["set -euo pipefail", 'curl() { command curl -sS --fail-with-body "$@"; echo; }']
    for block in blocks_of(page):
        if block.file:
            parts.append(f"cat > {block.file} <<'END_OF_FILE'\n{block.text}END_OF_FILE")
        elif not block.not_run:
            parts.append(f"echo '# {page}:{block.line}' >&2\n{block.text}")
    return "\n".join(parts)

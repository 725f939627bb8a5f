"""The files of this repository that are written by hand, found without git: a source archive has them too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = (
    ".ci", ".github", "deploy", "docs", "examples", "issuer", "loadtest", "proto", "sync_worker", "tests",
)  # fmt: skip
GENERATED: Final = (
    "docs/benchmark", "issuer/http/console/layout/vendored/", "issuer/http/docs/swagger_ui/", "issuer/http/rpc/coupon",
    "loadtest/results",
)  # fmt: skip
"""What `make rpc`, `make viewer` and `make bench` write, and what is vendored."""
SUFFIXES: Final = {".py", ".md", ".lua", ".sql", ".html", ".css", ".js", ".proto", ".toml", ".yml", ".yaml", ""}


def source_files() -> Iterator[Path]:
    """Yield every text file that is written by hand, in a fixed order."""
    candidates = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    for path in sorted(candidates):
        name = path.relative_to(ROOT).as_posix()
        generated = name.startswith(GENERATED) or "__pycache__" in path.parts or path.name == ".coverage"
        if path.is_file() and path.suffix in SUFFIXES and not generated:
            yield path

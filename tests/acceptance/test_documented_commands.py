"""Every command block of README and docs succeeds when a reader pastes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.documented_commands import PAGES, blocks_of, session_of
from tests.support.environment import clean_environment
from tests.support.installation import Installation
from tests.support.programs import require

LIMIT_S: Final = 300.0


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Installation]:
    """A directory as after `make up`: the commands in .venv, the service running."""
    with Installation(tmp_path / "clone") as installation:
        (installation.directory / ".venv").symlink_to(Path(sys.prefix))
        yield installation


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_succeed(clone: Installation, page: str) -> None:
    require("curl")
    session = session_of(page).replace("http://127.0.0.1:8000", clone.url)
    environment = clean_environment(PATH=f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin")
    done = subprocess.run(
        ["bash", "-c", session], cwd=clone.directory, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]


def test_each_block_that_is_not_run_has_a_reason() -> None:
    """`pytest -s` prints how many blocks run, and which do not."""
    blocks = [block for page in PAGES for block in blocks_of(page)]
    left_out = [block for block in blocks if block.not_run]
    print(f"\n{len(blocks) - len(left_out)} of {len(blocks)} command blocks run; not run:")
    for block in left_out:
        print(f"  {block.page}:{block.line}: {block.not_run}")
    assert len(left_out) < len(blocks) / 4

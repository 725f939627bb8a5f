"""axe-core, which finds what makes a page hard to use without sight or mouse. It is a tool of the tests, from npm."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from playwright.async_api import Page

from tests.support.programs import require

VERSION: Final = "4.11.0"
GRAVE: Final = ("serious", "critical")


@cache
def axe_script() -> str:
    """The script, downloaded once and kept in the cache of the user. Skips the test where that is not possible."""
    cached = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "issuer-tests" / f"axe-{VERSION}.js"
    if not cached.exists():
        npm = require("npm")
        with TemporaryDirectory() as directory:
            words = ["install", "--prefix", directory, "--ignore-scripts", "--no-save", "--no-audit", "--no-fund"]
            done = subprocess.run([npm, *words, f"axe-core@{VERSION}"], capture_output=True, check=False)
            if done.returncode != 0:
                pytest.skip("axe-core cannot be installed from npm; not shown: that pages are accessible")
            script = (Path(directory) / "node_modules" / "axe-core" / "axe.min.js").read_text()
        cached.parent.mkdir(parents=True, exist_ok=True)
        fresh = cached.with_suffix(f".{os.getpid()}")
        fresh.write_text(script)
        fresh.replace(cached)
    return cached.read_text()


async def grave_faults(page: Page) -> list[str]:
    """What axe finds on a page and takes for serious or critical: rule and element."""
    # Evaluated by the debugger: the policy of the page admits no script, and stays as it is.
    await page.evaluate(axe_script())
    found: dict[str, Any] = await page.evaluate("axe.run()")
    return [
        f"{violation['id']}: {node['html']}"
        for violation in found["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]

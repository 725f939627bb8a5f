"""Every advisory lock is in one registry, under a number of its own."""

from __future__ import annotations

import re
from pathlib import Path

from issuer.storage import postgres

ROOT = Path(__file__).parents[2]


def test_every_lock_has_a_number_of_its_own() -> None:
    numbers = [value for name, value in vars(postgres).items() if name.endswith("_LOCK")]
    assert len(numbers) > 5
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 2**31 for number in numbers)


def test_no_statement_spells_the_number_of_a_lock() -> None:
    spelled = [
        (path.name, call)
        for package in ("issuer", "sync_worker")
        for path in (ROOT / package).rglob("*.py")
        for call in re.findall(r"pg_(?:try_)?advisory_\w+\((.*?)\)\"", path.read_text())
        if re.search(r"(?<![$\w])\d", call)
    ]
    assert spelled == []

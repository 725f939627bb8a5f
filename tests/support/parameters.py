"""Parameters of a test of which `make test` takes some, and `make test-long` the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some_long(values: Iterable[Any], *, short: int = 1) -> list[Any]:
    """Return the values, all but the first `short` marked `long`: they repeat a test with another parameter.

    A tuple stands for several parameters.
    """
    return [value if at < short else _long(value) for at, value in enumerate(values)]


def _long(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.long)

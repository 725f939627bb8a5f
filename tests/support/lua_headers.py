"""The header of a Lua script, taken apart."""

from __future__ import annotations

import re
from typing import Final

from issuer.contract.scripts import Script

FIELDS: Final = ("Why a script", "KEYS", "ARGV", "Returns", "Cost")


def split(script: Script) -> tuple[str, str]:
    """Return the header without its dashes, and the body without comments."""
    head, _, body = script.text.partition("\n\n")
    header = "\n".join(line.removeprefix("--").removeprefix(" ") for line in head.splitlines())
    return header, re.sub(r"--.*", "", body)


def fields_of(header: str) -> dict[str, str]:
    """Return the text of each field of a header."""
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", header, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def cost_of(script: Script) -> str:
    """Return the cost that the header states, on one line."""
    header, _ = split(script)
    return " ".join(fields_of(header)["Cost"].split())

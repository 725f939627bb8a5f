"""Variables of the environment that look like settings and are none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches

from issuer.settings import Settings


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each ISSUER_ variable that is not a setting: a misspelt one would silently have no effect."""
    lines = []
    for variable in sorted(environment):
        prefix, name = variable[:7].upper(), variable[7:].lower()
        if prefix == "ISSUER_" and name not in Settings.model_fields:
            nearest = get_close_matches(name, Settings.model_fields, n=1, cutoff=0.7)
            lines.append(f"{variable} is not a setting" + (f"; ISSUER_{nearest[0].upper()} is" if nearest else ""))
    return lines

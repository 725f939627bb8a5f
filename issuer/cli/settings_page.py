"""docs/settings.md, from the table of settings: ``make docs`` writes it, a test says when it is out of date."""

from __future__ import annotations

from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from issuer.settings import Settings

HEAD: Final = """# Settings

Every setting is an environment variable; `issuer serve`, `issuer up`, the commands and `python -m sync_worker` read the
same ones. What is wrong with them is reported at once, all of it, and nothing starts; an `ISSUER_` variable that is no
setting is named in the log at the start, with the nearest one. Options on the command line (`--host`, `--port`,
`--workers`, `--auth`, `--data-dir`) come before the environment.

`issuer up` uses its embedded servers unless `ISSUER_REDIS_URL` or `ISSUER_DATABASE_URL` is set. A command that finds
neither of them uses the `issuer up` that runs on `ISSUER_DATA_DIR`, if there is one.

This page is made from the program (`make docs`).

| Variable | Default | Range | Meaning |
|---|---|---|---|
"""


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value is None else f"`{value}`"


def _range(field: FieldInfo) -> str:
    bounds = []
    for constraint in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤")):
            if (bound := getattr(constraint, name, None)) is not None:
                bounds.append(f"{sign} {bound:,}")
    return ", ".join(bounds)


def settings_page() -> str:
    rows = [
        f"| `ISSUER_{name.upper()}` | {_default(field)} | {_range(field)} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(settings_page(), end="")

"""docs/settings.md, generated from the table of settings by ``make docs``. A test fails when it is out of date."""

from __future__ import annotations

from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from issuer.settings import Settings

HEAD: Final = """# Settings

Every setting is an environment variable. `issuer serve`, `issuer up`, the commands and `python -m sync_worker` read the
same ones. If any is invalid, all problems are reported together and nothing starts. An `ISSUER_` variable that is not a
setting is reported by every process and command, with the nearest setting. Options of a command (`--host`, `--port`,
`--workers`, `--auth`, `--data-dir`) take precedence over the environment.

`issuer up` uses its embedded servers unless `ISSUER_REDIS_URL` or `ISSUER_DATABASE_URL` is set. Without either, a
command connects to the `issuer up` that runs on `ISSUER_DATA_DIR`. If none does, the command says `no issuer runs here`
and ends with exit code 1: commands and `issuer serve` use a default address only beside one that is set.

This page is generated from the code (`make docs`).

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

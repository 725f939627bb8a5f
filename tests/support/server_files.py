"""The files that deploy/cloud-init.yaml writes, and what the Terraform files say."""

from __future__ import annotations

import configparser
import importlib
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
CLOUD_INIT: Final = ROOT / "deploy" / "cloud-init.yaml"
TERRAFORM: Final = ROOT / "deploy" / "terraform" / "linode"


@cache
def cloud_config() -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")
    document: dict[str, Any] = yaml.safe_load(CLOUD_INIT.read_text())
    return document


@cache
def written_files() -> dict[str, str]:
    """The content of each file, by its path."""
    return {file["path"]: file["content"] for file in cloud_config()["write_files"]}


def variables(path: str) -> dict[str, str]:
    """The lines NAME=VALUE of a file that cloud-init writes."""
    lines = (line.partition("=") for line in written_files()[path].splitlines() if not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in lines}


UNITS: Final = Path("/etc/systemd/system")


def units() -> dict[str, str]:
    """The units of systemd and their drop-ins, by path below the directory of units."""
    files = ((Path(path), text) for path, text in written_files().items())
    return {str(path.relative_to(UNITS)): text for path, text in files if path.is_relative_to(UNITS)}


def unit(name: str) -> dict[str, dict[str, str]]:
    """A unit of systemd with its drop-ins, by section; of a repeated line the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    # `issuer-.service.d` is of all units whose name begins with `issuer-`.
    common = f"{name.partition('-')[0]}-.service.d/" if "-" in name else None
    for path, text in units().items():
        if path in (name, f"{name}.d/rights.conf", f"{common}rights.conf"):
            parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


@cache
def terraform(name: str) -> dict[str, list[dict[str, Any]]]:
    """A parsed file. The parser leaves the quotes of labels and texts."""
    hcl2: Any = importlib.import_module("hcl2")
    document: dict[str, list[dict[str, Any]]] = hcl2.loads((TERRAFORM / name).read_text())
    return document


def labelled(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Blocks with one label, such as variables, by that label."""
    return {name.strip('"'): body for block in found for name, body in block.items()}

"""Rules about the code itself: who may import whom, where a Redis key is spelled, how large a file gets."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "issuer" / "http" / "rpc" / "coupon"
"""What `make rpc` makes follows its own rules."""
SERVICE = sorted(path for path in (ROOT / "issuer").rglob("*.py") if path.parent != GENERATED)
WORKER = sorted((ROOT / "sync_worker").rglob("*.py"))

WORKER_MAY_IMPORT = {
    "batches", "events", "generating", "incarnation", "keys", "ledger", "loading", "logs", "postgres", "recovery",
    "redis_link", "scripts", "settings", "stores",
}  # fmt: skip
"""The contracts, the stores, and the acts that both programs do."""

HEAVY = {"alembic", "sqlalchemy", "typer", "rich", "psutil", "pytest", "xlsxwriter"}
"""What the API's processes never load."""


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def at_module_level(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SERVICE, ids=name_of)
def test_service_does_not_import_the_worker(path: Path) -> None:
    assert not [name for name in imported(path) if name.split(".")[0] in ("sync_worker", "tests", "loadtest")]


@pytest.mark.parametrize("path", [*SERVICE, *WORKER], ids=name_of)
def test_only_what_runs_the_http_service_knows_it(path: Path) -> None:
    if {"http", "cli", "embedded"} & set(path.relative_to(ROOT).parts):
        return
    assert not [name for name in imported(path) if name.startswith("issuer.http")]


@pytest.mark.parametrize("path", WORKER, ids=name_of)
def test_worker_imports_only_what_both_share(path: Path) -> None:
    taken = {name.split(".")[1] for name in imported(path) if name.startswith("issuer.")}
    assert taken <= WORKER_MAY_IMPORT


@pytest.mark.parametrize("path", [*SERVICE, *WORKER], ids=name_of)
def test_only_routes_know_routes_and_only_commands_know_commands(path: Path) -> None:
    relative = path.relative_to(ROOT)
    for name in imported(path):
        if name.startswith("issuer.http.routes"):
            assert "routes" in relative.parts or relative.name == "app.py"
        if name.startswith("issuer.cli"):
            assert "cli" in relative.parts or relative.name == "__main__.py"


@pytest.mark.parametrize("path", [*SERVICE, *WORKER], ids=name_of)
def test_redis_keys_are_spelled_in_one_module(path: Path) -> None:
    if path.name == "keys.py" and path.parent.name == "issuer":
        return
    assert not re.search(r"issuer:\{|\{p\d*\}", path.read_text())


@pytest.mark.parametrize("path", [*SERVICE, *WORKER], ids=name_of)
def test_files_stay_small(path: Path) -> None:
    """About 300 lines is the aim; one noun that needs more may have some more."""
    assert len(path.read_text().splitlines()) <= 450


def test_the_api_does_not_load_what_only_commands_need() -> None:
    seen: set[str] = set()
    todo = ["issuer.http.app"]
    while todo:
        module = todo.pop()
        path = ROOT / Path(*module.split("."))
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if module in seen or not file.exists():
            continue
        seen.add(module)
        names = set(at_module_level(file))
        assert not {name.split(".")[0] for name in names} & HEAVY, module
        todo += [name for name in names if name.startswith("issuer")]


def test_package_data_is_beside_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["issuer", "sync_worker", "loadtest"]
    assert list((ROOT / "issuer" / "lua").glob("*.lua"))


def test_constraints_are_names_and_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", line)[0]).lower() for line in wanted}
    assert names <= pinned
    documented = (ROOT / "docs" / "dependencies.md").read_text().lower()
    assert not {name for name in names if f"| {name} |" not in documented}

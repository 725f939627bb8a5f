"""Rules about the code itself: who may import whom, where a Redis key is spelled, how large a file gets."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

from tests.support.layers import LAYERS

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "issuer" / "http" / "rpc" / "coupon"
"""What `make rpc` makes follows its own rules."""
SERVICE = sorted(path for path in (ROOT / "issuer").rglob("*.py") if path.parent != GENERATED)
WORKER = sorted((ROOT / "sync_worker").rglob("*.py"))

RANK = {name: rank for rank, name in enumerate(" ".join(LAYERS).split())}
WORKER_BELOW = RANK["http"]
"""The worker stands beside the HTTP service."""

HEAVY = {"alembic", "sqlalchemy", "typer", "rich", "psutil", "pytest", "xlsxwriter"}
"""What the API's processes never load."""


@cache
def imports_of(path: Path) -> tuple[list[ast.Import | ast.ImportFrom], list[ast.Import | ast.ImportFrom]]:
    """The imports of a file: all of them, and those at module level. Each file is parsed once."""
    tree = ast.parse(path.read_text())
    everywhere = [node for node in statements(tree.body) if isinstance(node, ast.Import | ast.ImportFrom)]
    return everywhere, [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def statements(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield statements with those inside them. Expressions, which are most of a tree, are left out."""
    for node in nodes:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):
                yield from statements(inner)


def imported(path: Path) -> Iterator[str]:
    for node in imports_of(path)[0]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def at_module_level(path: Path) -> Iterator[str]:
    for node in imports_of(path)[1]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in [*SERVICE, *WORKER]}


def package_of(module: str) -> str:
    """`issuer.http` is too large for one package: what is in it counts by itself."""
    parts = module.split(".")
    depth = 3 if parts[:2] == ["issuer", "http"] else 2 if parts[0] == "issuer" else 1
    return ".".join(parts[:depth])


def edges() -> dict[str, dict[str, str]]:
    """Which package imports which, with the place: imports inside functions and for types alone included."""
    found: dict[str, dict[str, str]] = {}
    for module, path in MODULES.items():
        for name in imported_modules(path):
            source, target = package_of(module), package_of(name)
            if source != target and target != "issuer":
                found.setdefault(source, {})[target] = f"{name_of(path)} imports {name}"
    return found


def imported_modules(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports, wherever in the file."""
    for node in imports_of(path)[0]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in MODULES or node.module in MODULES:
                    yield name if name in MODULES else node.module


def cycles(graph: dict[str, dict[str, str]]) -> list[str]:
    """The imports that lie on a cycle of packages."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        reached[start], todo = set(), [start]
        while todo:
            new = graph.get(todo.pop(), {}).keys() - reached[start]
            reached[start] |= new
            todo += new
    return sorted(
        place
        for source, targets in graph.items()
        for target, place in targets.items()
        if source in reached.get(target, ())
    )


def test_packages_form_no_import_cycle() -> None:
    assert cycles(edges()) == []


def test_a_planted_import_cycle_is_found() -> None:
    graph = edges()
    graph["issuer.storage"]["issuer.recovery"] = "a planted import"
    assert "a planted import" in cycles(graph)


def imports_against_the_order(module: str) -> set[str]:
    """The packages that a module imports although they come after its own."""
    names = {name.split(".")[1] for name in imported_modules(MODULES[module]) if name.startswith("issuer.")}
    if module.startswith("sync_worker"):
        return {name for name in names if RANK[name] >= WORKER_BELOW}
    own = module.split(".")[1]
    return {name for name in names if name != own and RANK[name] >= RANK[own]}


def test_imports_follow_the_layer_order() -> None:
    found = {module: imports_against_the_order(module) for module in MODULES if module != "issuer"}
    assert {module: names for module, names in found.items() if names} == {}


def test_service_imports_neither_the_worker_nor_the_tests() -> None:
    others = ("sync_worker", "tests", "loadtest")
    assert [name_of(path) for path in SERVICE for name in imported(path) if name.split(".")[0] in others] == []


def test_redis_keys_are_spelled_in_one_module() -> None:
    spelling = re.compile(r"issuer:\{|\{p\d*\}")
    found = [name_of(path) for path in [*SERVICE, *WORKER] if spelling.search(path.read_text())]
    assert found == ["issuer/contract/keys.py"]


def test_files_stay_small() -> None:
    """About 300 lines is the aim; one noun that needs more may have some more."""
    lines = {name_of(path): len(path.read_text().splitlines()) for path in [*SERVICE, *WORKER]}
    assert {name: count for name, count in lines.items() if count > 450} == {}


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


def test_helpers_of_tests_are_in_the_support_package() -> None:
    # To parse all tests takes as long as a hundred tests.
    importing = re.compile(r"^ *(?:from|import) (tests\.\S+)(?: import (.+))?", re.MULTILINE)
    found = [
        (name_of(path), name)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in importing.findall(path.read_text())
    ]
    assert len(found) > 500
    assert [place for place in found if re.search(r"\btest_", " ".join(place[1]))] == []


def test_package_data_is_beside_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["issuer", "sync_worker", "loadtest"]
    assert list((ROOT / "issuer" / "contract" / "lua").glob("*.lua"))


def test_constraints_are_names_and_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", line)[0]).lower() for line in wanted} - {"issuer"}
    assert names <= pinned
    documented = (ROOT / "docs" / "dependencies.md").read_text().lower()
    assert not {name for name in names if f"| {name} |" not in documented}


def test_a_class_name_exists_once() -> None:
    places: dict[str, list[str]] = {}
    for folder in ("issuer", "sync_worker", "loadtest", "examples", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent != GENERATED:
                for name in re.findall(r"^ *class (\w+)[(:]", path.read_text(), re.MULTILINE):
                    places.setdefault(name, []).append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}

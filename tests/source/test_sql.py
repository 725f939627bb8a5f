"""Rules about SQL in the code (docs/decisions/0019-sql-as-module-constants.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "issuer").rglob("*.py"), *(ROOT / "sync_worker").rglob("*.py")])
KEYWORD = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|DROP|LOCK|TRUNCATE)\s")
STATEMENT = re.compile(rf"\s*\(?{KEYWORD.pattern}")


def is_statement(node: ast.AST) -> bool:
    """Whether a string literal, formatted or not, is SQL."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0] if node.values else node
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value) is not None


def long_statements(tree: ast.Module) -> Iterator[int]:
    """The lines of the statements inside functions that take more than one line."""
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.expr) and is_statement(node) and node.end_lineno != node.lineno:
                    yield node.lineno


def odd_constants(tree: ast.Module) -> Iterator[str]:
    """The names at module level that hold a statement and are not typed Final or not in upper case."""
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and is_statement(node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            is_final = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "Final"
            if not is_final or not ast.unparse(target).isupper():
                yield ast.unparse(target)


def test_sql_of_more_than_a_line_is_a_module_constant() -> None:
    found: list[tuple[str, object]] = []
    for path in FILES:
        text = path.read_text()
        if KEYWORD.search(text):
            tree = ast.parse(text)
            found += [(str(path.relative_to(ROOT)), place) for place in (*long_statements(tree), *odd_constants(tree))]
    assert found == []


def test_planted_statements_are_found() -> None:
    planted = ast.parse("_query = 'SELECT 1'\ndef f():\n    g('SELECT a'\n      ' FROM b')\n")
    assert list(long_statements(planted)) == [3]
    assert list(odd_constants(planted)) == ["_query"]

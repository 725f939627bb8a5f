"""Check resources, arguments and attributes of Terraform files for Linode against the types of pulumi-linode.

Terraform and its provider are no Python packages; pulumi-linode is generated from the schema of the same provider.
`python deploy/terraform/check.py DIRECTORY` prints what is wrong, a line each; exit code 1 if there is anything.
It needs pulumi-linode and python-hcl2, so `make terraform-check` gives it a virtual environment of its own.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import hcl2
import pulumi_linode

PREFIX: Final = "linode_"
META: Final = frozenset({"count", "depends_on", "for_each", "lifecycle", "provider"})
TYPES: Final = ((bool, "bool"), (int, "int"), (list, "Sequence"), (str, "str"))
REFERENCE: Final = re.compile(r"(data\.)?linode_(\w+)\.\w+(?:\[[^\]]*\])?\.(\w+)")


def main(directory: Path) -> int:
    problems = [f"{path}: {problem}" for path in sorted(directory.glob("*.tf")) for problem in problems_of(path)]
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


def problems_of(path: Path) -> Iterator[str]:
    text = path.read_text()
    document = hcl2.loads(text)
    for kind, named in blocks(document.get("resource", [])):
        yield from of_arguments(kind, pulumi_linode.__dict__.get(f"{camel(kind)}Args"), named)
    for kind, named in blocks(document.get("data", [])):
        yield from of_arguments(kind, pulumi_linode.__dict__.get(f"get_{kind.removeprefix(PREFIX)}"), named)
    for data, kind, attribute in REFERENCE.findall(text):
        found = getattr(pulumi_linode, f"Get{camel(kind)}Result" if data else camel(kind), None)
        if not hasattr(found, attribute):
            yield f"{data}linode_{kind} has no attribute {attribute}"


def blocks(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield type and content of each labelled block; the parser leaves the quotes of labels."""
    for block in found:
        for kind, named in arguments(block):
            for _, content in arguments(named):
                yield kind, content


def arguments(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a block contains, without the marks of the parser."""
    for name, value in block.items():
        if not name.startswith("__"):
            yield name.strip('"'), value


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.removeprefix(PREFIX).split("_"))


def of_arguments(what: str, accepts: Any, block: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the arguments of a block that becomes this class or function."""
    if accepts is None:
        yield f"there is no {what}"
        return
    known = {name: parameter for name, parameter in inspect.signature(accepts).parameters.items() if name != "opts"}
    given = set()
    for name, value in flattened(block):
        parameter = next((known[form] for form in (name, f"{name}s", f"{name}es") if form in known), None)
        if parameter is None:
            yield f"{what} has no argument {name}"
            continue
        given.add(parameter.name)
        yield from of_value(f"{what}.{name}", str(parameter.annotation), value)
    required = {name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty}
    for name in sorted(required - given):
        yield f"{what} lacks {name}"


def flattened(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield arguments, with the content of dynamic blocks in place of them."""
    for name, value in arguments(block):
        if name == "dynamic":
            for dynamic in value:
                for inner, body in arguments(dynamic):
                    yield inner, body["content"]
        elif name not in META:
            yield name, value


def of_value(place: str, annotation: str, value: Any) -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        found = re.search(r"\b(\w+Args)\b", annotation)
        for block in value:
            yield from of_arguments(place, getattr(pulumi_linode, found[1], None) if found else None, block)
    elif not (isinstance(value, str) and value.startswith("${")):
        name = next(name for kind, name in TYPES if isinstance(value, kind))
        if name not in annotation:
            yield f"{place} is {annotation}, not {name}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Templates of pages. They escape every value."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def _environment() -> Environment:
    loader = PackageLoader("issuer.http", package_path=".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def template(name: str) -> Template:
    """Return a template by its path below issuer/http/, such as `docs/docs.html`."""
    return _environment().get_template(name)

"""/console/audit: who did what. /console/settings: how this process is set, without its secrets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import SecretStr
from starlette.responses import Response

from issuer.access.audit import AuditEntry, list_entries
from issuer.http.auth import Access
from issuer.http.console.console_visit import Role, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.operations import Operation, RequestContext
from issuer.logs import MASK, masked
from issuer.settings import Settings

PAGE_SIZE: Final = 50
_AUDIT: Final = ConsolePage("access/audit.html")
_SETTINGS: Final = ConsolePage("access/settings.html")


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting for people. `value`: without what is secret in it; `is_set`: it is not the default."""

    variable: str
    value: str
    is_set: bool
    description: str


async def get_audit(context: RequestContext) -> Response:
    visit = await open_console(context, Role.ADMIN, unbound=True)
    cursor = context.request.query_params.get("cursor")
    page = await list_entries(context.services.stores.postgres, limit=PAGE_SIZE, cursor=cursor)
    return _AUDIT.response(visit, page=page, first=cursor is None, actor_of=_actor, detail_of=_detail)


async def get_settings(context: RequestContext) -> Response:
    visit = await open_console(context, Role.ADMIN, unbound=True)
    shown = list(show_settings(context.services.settings))
    changed = [one for one in shown if one.is_set]
    groups = [("Set here", changed), ("Defaults", [one for one in shown if not one.is_set])]
    return _SETTINGS.response(visit, groups=groups)


def show_settings(settings: Settings) -> Iterator[ShownSetting]:
    """Yield every setting, in the order of the table of settings."""
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        is_set = name in settings.model_fields_set and value != field.default
        yield ShownSetting(f"ISSUER_{name.upper()}", _shown(value), is_set, field.description or "")


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        # An address of a server is of use without its password; anything else that is secret is secret as a whole.
        return masked(text) if "://" in text else MASK
    return str(value)


def _actor(entry: AuditEntry) -> tuple[str, str]:
    """Return who acted, for people: what kind of actor, and the name."""
    kind, _, rest = entry.actor.partition(":")
    kinds = {"key": "API key", "operator": "Operator", "cli": "Command line", "link": "One-time link"}
    name = rest.partition(":")[2] if kind in ("key", "operator") else rest.removeprefix("cli:")
    return kinds.get(kind, entry.actor if not rest else kind), name


def _detail(entry: AuditEntry) -> str:
    return orjson.dumps(entry.detail).decode() if entry.detail else ""


OPERATIONS: Final = (
    Operation("GET", "/console/audit", get_audit, Access.PUBLIC, page=True),
    Operation("GET", "/console/settings", get_settings, Access.PUBLIC, page=True),
)

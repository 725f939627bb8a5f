"""Operators of the console: created over HTTP, and signed in with a password."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from tests.support.api import Api
from tests.support.console import ConsoleScreen

OPERATORS: Final = "/api/v1/operators"
CHOSEN: Final = "four grey cats at sea"


async def created(api: Api, role: str = "operator", **values: Any) -> dict[str, Any]:
    body = {"name": f"ada {uuid4().hex[:8]}", "role": role, **values}
    response = await api.client.post(OPERATORS, json=body, headers=api.admin)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


async def enter(screen: ConsoleScreen, name: str, password: str) -> None:
    await screen.open("/sign-in")
    await screen.send("/sign-in", name=name, password=password)


async def choose(screen: ConsoleScreen, operator: dict[str, Any], password: str = CHOSEN) -> None:
    """Sign in with the first password, and choose another one."""
    await enter(screen, operator["name"], operator["secret"])
    await screen.send("/account", new=password, again=password)

"""A crowd that spends the points of one member."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import httpx
import orjson

from tests.support.crowd import CrowdRequest
from tests.support.loyalty import PROGRAMS
from tests.support.service import Service


@dataclass(frozen=True, slots=True)
class SpendWish(CrowdRequest):
    """One point of the member."""

    path: str = ""

    def target(self) -> tuple[str, bytes]:
        return f"{self.path}/spend", orjson.dumps({"points": 1})


async def make_member(service: Service, points: int) -> str:
    """Create a program and a member with points. Return the path of the member."""
    headers = {"Authorization": service.api_key}
    async with httpx.AsyncClient(base_url=service.url, headers=headers) as http:
        made = await http.post(PROGRAMS, json={"name": f"Tea {uuid4()}", "client": str(uuid4())})
        path = f"{PROGRAMS}/{made.json()['id']}/members"
        member = await http.post(path, json={"ref": "anna"})
        path = f"{path}/{member.json()['id']}"
        added = await http.post(f"{path}/adjust", json={"points": points, "reason": "test"})
        assert added.status_code == 201, added.text
    return path

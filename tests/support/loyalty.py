"""One client's program with a member, over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from tests.support.api import Api

PROGRAMS: Final = "/api/v1/loyalty/programs"
ONE_FOR_ONE: Final = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}}
TABLES: Final = (
    "loyalty_programs", "program_terms", "members", "accounts", "points_holds", "pending_points", "entries",
    "orders", "moves", "kept_answers", "audit_log",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoyaltyShop:
    """A client with a program and its member Anna. `key`: headers with a key of both scopes that is bound to it."""

    api: Api
    client_id: UUID
    key: dict[str, str]
    path: str
    anna: str

    @classmethod
    async def of(cls, api: Api, *, unit: str = "points", terms: Any = None, **fields: Any) -> LoyaltyShop:
        client_id = uuid4()
        key = await api.key("admin", "redeem", client_id=client_id)
        new = {"name": "Tea", "unit": unit, "terms": ONE_FOR_ONE if terms is None else terms, **fields}
        created = await api.client.post(PROGRAMS, json=new, headers=key)
        assert created.status_code == 201, created.text
        path = f"{PROGRAMS}/{created.json()['id']}"
        shop = cls(api, client_id, key, path, "")
        return cls(api, client_id, key, path, (await shop.join(ref="anna"))["id"])

    async def join(self, **fields: Any) -> dict[str, Any]:
        """Create a member; return it."""
        response = await self.program_post("members", fields)
        assert response.status_code == 201, response.text
        member: dict[str, Any] = response.json()
        return member

    async def program_post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST to a path below the program."""
        return await self.api.client.post(f"{self.path}/{path}", json=body, headers={**self.key, **headers})

    async def post(self, path: str, body: Any = None, *, member: str = "", **headers: str) -> httpx.Response:
        """POST to a path below a member, Anna by default."""
        return await self.program_post(f"members/{member or self.anna}/{path}", body, **headers)

    async def send(self, path: str, body: bytes) -> httpx.Response:
        """POST bytes to a path below Anna."""
        return await self.api.client.post(f"{self.path}/members/{self.anna}/{path}", content=body, headers=self.key)

    async def adjust(self, points: Any, *, member: str = "", **fields: Any) -> httpx.Response:
        """Add points, or take them."""
        return await self.post("adjust", {"points": points, "reason": "test", **fields}, member=member)

    async def member(self, member: str = "") -> dict[str, Any]:
        found: dict[str, Any] = (await self.api.get(f"{self.path}/members/{member or self.anna}", self.key)).json()
        return found

    async def items(self, path: str, *, member: str = "") -> list[dict[str, Any]]:
        """The items of a list below a member."""
        response = await self.api.get(f"{self.path}/members/{member or self.anna}/{path}", self.key)
        found: list[dict[str, Any]] = response.json()["items"]
        return found

    async def tables(self) -> dict[str, list[str]]:
        """Every row of the tables that a request could change."""
        return {
            table: sorted(row for (row,) in await self.api.owner.fetch(f"SELECT t::text FROM {table} t"))
            for table in TABLES
        }

"""A program with hooks of the four kinds of shop, over HTTP, and what their deliveries have earned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.hooks.events import ShopKind
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from issuer.recovery.opening import open_stores
from issuer.storage.grants import Process
from issuer.storage.task_rows import TaskRows
from sync_worker.maintenance.hook_inbox import process_inbox
from tests.support.api import Api
from tests.support.environment import settings_as
from tests.support.points import CLIENT
from tests.support.shop_deliveries import NOTIFICATION_URL, SECRETS, ShopDelivery


@dataclass(frozen=True, slots=True)
class HookShop:
    """A program that earns 1 point per 1.00 USD, with one hook of a shop."""

    api: Api
    program: Program
    kind: ShopKind
    hook: dict[str, Any]

    @classmethod
    async def of(
        cls, api: Api, kind: ShopKind, *, currency: str = "USD", client_id: UUID = CLIENT, **options: Any
    ) -> HookShop:
        rate = {"points": 1, "per": "1.00", "currency": currency}
        program = await create_program(
            api.owner, client_id, f"Club {kind}", parse_terms({"earn": rate}, "points"), actor="test"
        )
        return await cls.in_program(api, program, kind, **options)

    @classmethod
    async def in_program(cls, api: Api, program: Program, kind: ShopKind, **options: Any) -> HookShop:
        body = {"kind": str(kind), "secret": SECRETS[kind], **options}
        if kind is ShopKind.SQUARE:
            body.setdefault("notification_url", NOTIFICATION_URL)
        made = await api.client.post(f"/api/v1/loyalty/programs/{program.id}/hooks", json=body, headers=api.admin)
        assert made.status_code == 201, made.text
        return cls(api, program, kind, made.json())

    @property
    def path(self) -> str:
        return f"/api/v1/loyalty/programs/{self.program.id}/hooks/{self.hook['id']}"

    async def change_program(self, **values: Any) -> None:
        path = f"/api/v1/loyalty/programs/{self.program.id}"
        answer = await self.api.client.patch(path, json=values, headers=self.api.admin)
        assert answer.status_code == 200, answer.text

    async def send(self, delivery: ShopDelivery, *, secret: str | None = None, **headers: str) -> httpx.Response:
        return await self.post(delivery.raw, {**delivery.signed(secret), **headers})

    async def post(self, raw: bytes, headers: dict[str, str]) -> httpx.Response:
        return await self.api.client.post(self.hook["path"], content=raw, headers=headers)

    async def sent(self, delivery: ShopDelivery) -> str:
        """Send a delivery and return its outcome."""
        answer = await self.send(delivery)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["outcome"])

    async def inbox(self, **query: str) -> list[dict[str, Any]]:
        answer = await self.api.client.get(self.path + "/inbox", params=query, headers=self.api.admin)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def states(self) -> list[str]:
        """Return the states of the deliveries, oldest first."""
        return [row["state"] for row in reversed(await self.inbox())]

    async def member(self, **values: str) -> UUID:
        answer = await self.api.client.post(
            f"/api/v1/loyalty/programs/{self.program.id}/members", json=values, headers=self.api.admin
        )
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    async def entries(self) -> list[tuple[str, int]]:
        """Return what has happened to the points of the program: operation and points of each entry."""
        rows = await self.api.owner.fetch(
            "SELECT e.op, e.points FROM entries e JOIN accounts a ON a.id = e.account_id WHERE a.program_id = $1"
            " ORDER BY e.account_id, e.seq",
            self.program.id,
        )
        return [(row["op"], row["points"]) for row in rows]


async def settle_by_worker(api: Api) -> None:
    """Do what the worker does, with its rights, with deliveries that the API has not processed."""
    async with open_stores(settings_as(api.services.settings, Process.WORKER)) as stores:
        rows, executor = TaskRows(stores), LoyaltyExecutor(stores.postgres, timeout_s=10.0)
        try:
            await process_inbox(stores, executor, rows, older_than_s=0.0)
        finally:
            await executor.aclose()
            await rows.aclose()

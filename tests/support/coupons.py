"""Coupons over HTTP, as tests ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx

from issuer.settings import Settings
from tests.support.api import Api
from tests.support.servers import START_LIMIT_S
from tests.support.worker_process import WorkerProcess

COUPON = "/coupon/"
CONSUME = "/coupon/consume/"


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """A worker, for as long as the block lasts."""
    with WorkerProcess(settings, settings.data_dir.parent / "worker"):
        yield


class Till:
    """One client's coupons: `admin` and `till` are headers with keys that are bound to it."""

    def __init__(self, api: Api, client_id: UUID, admin: dict[str, str], till: dict[str, str]) -> None:
        self.api = api
        self.client_id = client_id
        self.admin = admin
        self.till = till

    @classmethod
    async def of(cls, api: Api) -> Till:
        client_id = uuid4()
        return cls(
            api, client_id, await api.key("admin", client_id=client_id), await api.key("redeem", client_id=client_id)
        )

    async def make(self, code: str | None = None, uses: int = 3, **fields: Any) -> dict[str, Any]:
        """A new coupon."""
        body = {"code": code, "availability_count": uses, **fields}
        response = await self.api.client.post(COUPON, json=body, headers=self.admin)
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found

    async def show(self, code: str) -> dict[str, Any]:
        response = await self.api.client.get(COUPON, params={"code": code}, headers=self.till)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def look(self, code: str, **fields: str) -> dict[str, Any]:
        response = await self.api.client.get(CONSUME, params={"code": code, **fields}, headers=self.till)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def use(self, code: str, *, key: str | None = None, **fields: str) -> httpx.Response:
        headers = self.till | ({"Idempotency-Key": key} if key else {})
        return await self.api.client.post(CONSUME, params={"code": code}, json=fields, headers=headers)

    async def change(self, code: str, **fields: Any) -> httpx.Response:
        return await self.api.client.put(f"{COUPON}{code}/", json=fields, headers=self.admin)

    async def reverse(self, consumption_id: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Reverse a use; on a busy machine the worker may not have recorded it yet, which is a 503."""
        async with asyncio.timeout(START_LIMIT_S):
            while True:
                path = f"{CONSUME}{consumption_id}/reverse"
                response = await self.api.client.post(path, headers=headers or self.till)
                if response.status_code != 503:
                    return response

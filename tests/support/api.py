"""The application under test with its client, and ways to put codes into a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx

from issuer.access.api_keys import create_key
from issuer.http.app import IssuerApp, create_app
from issuer.http.services import Services
from issuer.settings import Settings
from issuer.storage.grants import Process
from issuer.storage.postgres import Pool, close_pool, connect_pool
from tests.support.environment import settings_as
from tests.support.servers import START_LIMIT_S

UPLOAD = "/api/v1/codes/upload"
REDEEM = "/api/v1/code/redeem"


@dataclass(slots=True)
class Api:
    """A running application; `admin` and `redeemer` are headers with a key of that scope.

    The application works with its own role, `owner` with the role of the commands.
    """

    app: IssuerApp
    client: httpx.AsyncClient
    services: Services
    owner: Pool
    admin: dict[str, str] = field(default_factory=dict)
    redeemer: dict[str, str] = field(default_factory=dict)

    async def key(
        self,
        *scopes: str,
        client_id: UUID | None = None,
        rate_limit: str | None = None,
        failed_lookup_limit: str | None = None,
    ) -> dict[str, str]:
        """Headers with a new key, as soon as the application knows it."""
        _, secret = await create_key(
            self.owner,
            name="test",
            scopes=scopes,
            client_id=client_id,
            rate_limit=rate_limit,
            failed_lookup_limit=failed_lookup_limit,
            actor="test",
        )
        async with asyncio.timeout(START_LIMIT_S):
            while self.services.keys.find(secret) is None:
                await asyncio.sleep(0.01)
        return {"Authorization": f"Bearer {secret}"}

    async def upload(
        self, rows: Iterable[tuple[UUID, str]], *, name: str = "Summer", rules: str = "", key: Any = None
    ) -> httpx.Response:
        text = "client_id,code\n" + "".join(f"{client},{code}\n" for client, code in rows)
        return await self.client.post(
            UPLOAD,
            files={"file": ("codes.csv", text.encode(), "text/csv")},
            data={"batch_name": name, "rules": rules},
            headers=key or self.admin,
        )

    async def batch(
        self, *codes: str, client: UUID | None = None, rules: str = "", name: str | None = None
    ) -> tuple[UUID, UUID]:
        """A new batch with these codes of one client: (batch, client). Without a name it has one of its own."""
        client = client or uuid4()
        response = await self.upload([(client, code) for code in codes], rules=rules, name=name or f"Batch {uuid4()}")
        assert response.status_code == 200, response.text
        return UUID(response.json()["batch_id"]), client

    async def redeem(self, batch: object, client: object, customer: object = None, **headers: str) -> httpx.Response:
        body = {"batchid": str(batch), "clientid": str(client), "customerid": str(customer or uuid4())}
        return await self.client.post(REDEEM, json=body, headers={**self.redeemer, **headers})

    async def get(self, path: str, key: Any = None) -> httpx.Response:
        return await self.client.get(path, headers=key or self.admin)


@asynccontextmanager
async def running_app(settings: Settings, *, ready: bool = True) -> AsyncIterator[Api]:
    """The application with its lifespan, reached without a socket. Waits until it can redeem if `ready`."""
    app = create_app(settings_as(settings, Process.API))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://issuer") as client,
    ):
        owner = await connect_pool(settings, size=2)
        try:
            api = Api(app, client, app.state.services, owner)
            if ready:
                await until_status(api, "/readyz", 200)
                api.admin, api.redeemer = await api.key("admin"), await api.key("redeem")
            yield api
        finally:
            await close_pool(owner)


async def until_status(api: Api, path: str, status: int) -> httpx.Response:
    """Asks until the answer has the status."""
    async with asyncio.timeout(START_LIMIT_S):
        while (response := await api.client.get(path)).status_code != status:
            await asyncio.sleep(0.05)
    return response


def problem(response: httpx.Response, status: int, error: str | None = None) -> dict[str, Any]:
    """The problem in an answer, after a look at its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "error", "code"} <= found.keys()
    assert found["status"] == status
    if error is not None:
        assert found["error"] == error
    return found

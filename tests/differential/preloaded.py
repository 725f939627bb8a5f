"""What both installations hold before the first request: clients, API keys, batches, coupons and campaigns.

It is loaded once, over the public routes. `tests.differential.installation_copy` copies it, ids included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.access.api_keys import create_key, revoke_key
from issuer.settings import Settings
from tests.support.api import Api, running_app
from tests.support.coupons import COUPON

ACME: Final = UUID("aaaaaaaa-0000-4000-8000-000000000001")
"""The client that owns nearly everything here."""
BOREAL: Final = UUID("bbbbbbbb-0000-4000-8000-000000000002")
"""Another client, with a pool in the batch `open` and a coupon of the same code as one of the first client's."""
NOT_THERE: Final = "cccccccc-0000-4000-8000-000000000003"

SMALL_STOCK: Final = 5
"""Codes, uses or coupons of what must be sold out soon."""
LATER: Final = "2999-01-01T00:00:00Z"
PAST: Final = "2020-01-01T00:00:00Z"
DAILY: Final = "4/d"
"""A limit whose bucket gets no token while a test runs, and of which no process leases tokens ahead."""


@dataclass(frozen=True, slots=True)
class Preloaded:
    """Secrets of API keys and ids of batches and campaigns, each by a name; codes of coupons are constants."""

    settings: Settings
    keys: dict[str, str]
    batches: dict[str, str]
    campaigns: dict[str, str]


COUPON_CODES: Final = ("OPEN", "HAT", "ONCE", "FEW", "PAUSED", "EXPIRED", "Cased", "CASED", "SHARED")


async def preload(settings: Settings, stock: int) -> Preloaded:
    """Fill an empty installation. The pools that must not be sold out get `stock` codes or uses."""
    async with running_app(settings) as api:
        await _coupons(api, stock)
        return Preloaded(settings, await _keys(api), await _batches(api, stock), await _campaigns(api, stock))


async def _keys(api: Api) -> dict[str, str]:
    wanted: dict[str, dict[str, Any]] = {
        "redeem": {"scopes": ["redeem"]},
        "acme redeem": {"scopes": ["redeem"], "client_id": ACME},
        "boreal redeem": {"scopes": ["redeem"], "client_id": BOREAL},
        "admin": {"scopes": ["admin"]},
        "all": {"scopes": ["admin", "redeem"]},
        "acme public": {"scopes": ["public"], "client_id": ACME},
        "limited": {"scopes": ["redeem"], "rate_limit": DAILY},
        "limited admin": {"scopes": ["admin"], "rate_limit": DAILY},
        "enumerating": {"scopes": ["redeem"], "client_id": ACME, "failed_lookup_limit": DAILY},
        "revoked": {"scopes": ["redeem"]},
    }
    secrets = {}
    for name, options in wanted.items():
        key, secret = await create_key(api.owner, name=name, actor="test", **options)
        secrets[name] = secret
        if name == "revoked":
            await revoke_key(api.owner, key.id, actor="test")
    return secrets


async def _batches(api: Api, stock: int) -> dict[str, str]:
    async def batch(name: str, size: int, rules: str = "", **changes: Any) -> str:
        rows = [(ACME, f"{name}-{number:06d}") for number in range(size)]
        rows += [(BOREAL, f"{name}-b-{number:06d}") for number in range(size if name == "open" else 0)]
        uploaded = await api.upload(rows, name=name, rules=rules)
        assert uploaded.status_code == 200, uploaded.text
        batch_id = str(uploaded.json()["batch_id"])
        if changes:
            response = await api.client.patch(f"/api/v1/batches/{batch_id}", json=changes, headers=api.admin)
            assert response.status_code == 200, response.text
        return batch_id

    return {
        "open": await batch("open", stock),
        "once": await batch("once", stock, '{"maxpercustomer": 1}'),
        "windowed": await batch("windowed", stock, '{"maxpercustomer": 2, "timelimit": 30}'),
        "small": await batch("small", SMALL_STOCK),
        "later": await batch("later", SMALL_STOCK, starts_at=LATER),
        "paused": await batch("paused", SMALL_STOCK, paused=True),
        "ended": await batch("ended", SMALL_STOCK, expired=True),
        "unknown": NOT_THERE,
    }


async def _campaigns(api: Api, stock: int) -> dict[str, str]:
    async def campaign(name: str, total: int = SMALL_STOCK, starts_at: str = PAST, **more: Any) -> str:
        changes = {field: more.pop(field) for field in ("paused", "ended") if field in more}
        body = {"name": name, "total": total, "starts_at": starts_at, "client_id": str(ACME), **more}
        response = await api.client.post("/api/v1/campaigns", json=body, headers=api.admin)
        assert response.status_code == 201, response.text
        campaign_id = str(response.json()["id"])
        if changes:
            path = f"/api/v1/campaigns/{campaign_id}"
            response = await api.client.patch(path, json=changes, headers=api.admin)
            assert response.status_code == 200, response.text
        return campaign_id

    return {
        "open": await campaign("open", stock),
        "public": await campaign("public", stock, public=True),
        "few": await campaign("few"),
        "later": await campaign("later", starts_at=LATER),
        "paused": await campaign("paused", paused=True),
        "ended": await campaign("ended", ended=True),
        "unknown": NOT_THERE,
    }


async def _coupons(api: Api, stock: int) -> None:
    async def coupon(code: str, uses: int = stock, client: UUID = ACME, **fields: Any) -> None:
        body = {"code": code, "availability_count": uses, "client_id": str(client), **fields}
        response = await api.client.post(COUPON, json=body, headers=api.admin)
        assert response.status_code == 201, response.text

    await coupon("OPEN", discount_fixed="5.00")
    await coupon("HAT", product_id="hat")
    await coupon("ONCE", rules={"maxpercustomer": 1, "timelimit": 30})
    await coupon("FEW", SMALL_STOCK)
    await coupon("PAUSED", paused=True)
    await coupon("EXPIRED", expiry_date="2020-01-01")
    await coupon("Cased", case_sensitive=True)
    await coupon("CASED", case_sensitive=True, product_id="hat")
    await coupon("SHARED")
    await coupon("SHARED", client=BOREAL)

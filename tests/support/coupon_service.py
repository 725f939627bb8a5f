"""Calls of the coupon service as its clients make them, in JSON over plain HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.support.api import Api

SERVICE = "/coupon.CouponService"
PAST = "2020-01-01T00:00:00Z"


def ahead(seconds: float) -> str:
    """A time that many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def call(api: Api, method: str, key: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    """With an administrator's key unless another is given; `{}` is none."""
    headers = api.admin if key is None else key
    return await api.client.post(f"{SERVICE}/{method}", json=fields, headers=headers)


async def create(api: Api, total: int = 3, start: str = PAST, key: dict[str, str] | None = None) -> str:
    """The id of a new campaign."""
    response = await call(api, "CreateCampaign", key, name="Concert", total=total, startTime=start)
    assert response.status_code == 200, response.text
    return str(response.json()["campaignId"])


async def issue(api: Api, campaign: str, key: dict[str, str] | None = None, **headers: str) -> dict[str, Any]:
    """The answer of IssueCoupon, which must be a good one."""
    known = api.redeemer if key is None else key
    response = await call(api, "IssueCoupon", {**known, **headers}, campaignId=campaign)
    assert response.status_code == 200, response.text
    said: dict[str, Any] = response.json()
    return said


def failure(response: httpx.Response, status: int, code: str) -> str:
    """The message of a failed call, after a look at its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert set(said) == {"code", "message"}
    assert said["code"] == code
    return str(said["message"])

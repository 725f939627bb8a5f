"""The methods of the coupon service and their refusals, on the real application and real servers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from issuer.campaigns.campaign import DEFAULT_CLIENT
from issuer.settings import Auth, Settings
from tests.support.api import Api, problem, running_app
from tests.support.coupon_service import PAST, SERVICE, ahead, call, create, failure, issue

pytestmark = pytest.mark.shared_app

CODE = re.compile("[가나다라마바사아자차카타파하0-9]{10}")


async def test_codes_are_issued_until_the_campaign_is_sold_out(api: Api) -> None:
    campaign = await create(api, total=3)
    codes = []
    for _ in range(3):
        response = await issue(api, campaign)
        assert response.keys() == {"code", "error"}
        assert response["error"] == ""
        assert CODE.fullmatch(response["code"])
        codes.append(response["code"])
    assert len(set(codes)) == 3
    for _ in range(2):
        assert await issue(api, campaign) == {"code": "", "error": "sold out"}
    shown = (await call(api, "GetCampaign", campaignId=campaign)).json()
    assert shown == {
        "campaignId": campaign, "name": "Concert", "total": 3, "startTime": PAST, "issuedCodes": codes,
    }  # fmt: skip


async def test_concurrent_requests_get_distinct_codes_until_sold_out(api: Api) -> None:
    campaign = await create(api, total=50)
    responses = await asyncio.gather(*(issue(api, campaign) for _ in range(400)))
    codes = [one["code"] for one in responses if one["code"]]
    assert len(codes) == len(set(codes)) == 50
    assert Counter(one["error"] for one in responses) == {"": 50, "sold out": 350}


async def test_a_refusal_is_a_200_with_an_error(api: Api) -> None:
    later = await create(api, start=ahead(3600))
    assert await issue(api, later) == {"code": "", "error": "not started"}
    assert (await call(api, "GetCampaign", campaignId=later)).json()["issuedCodes"] == []
    for unknown in (str(uuid4()), "", "x", "1"):
        assert await issue(api, unknown) == {"code": "", "error": "not found"}
    campaign = await create(api)
    path = f"/api/v1/batches/{campaign}"
    await api.client.patch(path, json={"paused": True}, headers=api.admin)
    assert await issue(api, campaign) == {"code": "", "error": "paused"}
    await api.client.patch(path, json={"paused": False, "expired": True}, headers=api.admin)
    assert await issue(api, campaign) == {"code": "", "error": "ended"}
    assert await issue(api, campaign.upper()) == {"code": "", "error": "ended"}


async def test_a_batch_that_is_no_campaign_is_not_found(api: Api) -> None:
    batch, _ = await api.batch("A-1")
    assert await issue(api, str(batch)) == {"code": "", "error": "not found"}
    failure(await call(api, "GetCampaign", campaignId=str(batch)), 404, "not_found")


NO_CAMPAIGNS: list[dict[str, Any]] = [
    {"name": "", "total": 5, "startTime": PAST},
    {"name": " ", "total": 5, "startTime": PAST},
    {"name": "a\nb", "total": 5, "startTime": PAST},
    {"name": "x" * 256, "total": 5, "startTime": PAST},
    {"name": "A", "total": 0, "startTime": PAST},
    {"name": "A", "total": -1, "startTime": PAST},
    {"name": "A", "startTime": PAST},
    {"name": "A", "total": 5_000_001, "startTime": PAST},
    {"name": "A", "total": 2**31, "startTime": PAST},
    {"name": "A", "total": 1.5, "startTime": PAST},
    {"name": "A", "total": "many", "startTime": PAST},
    {"name": 5, "total": 5, "startTime": PAST},
    {"name": "A", "total": 5},
    {"name": "A", "total": 5, "startTime": None},
    {"name": "A", "total": 5, "startTime": ""},
    {"name": "A", "total": 5, "startTime": "2026-06-01T00:00:00"},
    {"name": "A", "total": 5, "startTime": "1969-12-31T23:59:59Z"},
    {"name": "A", "total": 5, "startTime": "99999-12-31T23:59:59Z"},
    {"name": "A", "total": 5, "startTime": 5},
    {},
]


@pytest.mark.own_app
async def test_an_invalid_campaign_is_an_invalid_argument(api: Api) -> None:
    for fields in NO_CAMPAIGNS:
        assert failure(await call(api, "CreateCampaign", **fields), 400, "invalid_argument"), fields
    assert await api.services.stores.postgres.fetchval("SELECT count(*) FROM batches") == 0


async def test_a_start_is_never_rounded_down(api: Api) -> None:
    campaign = await create(api, start="2999-01-01T00:00:00.000000001Z")
    assert (await call(api, "GetCampaign", campaignId=campaign)).json()["startTime"] == "2999-01-01T00:00:00.001Z"


NO_MESSAGES = [
    b"", b"{", b"[]", b"null", b'"x"', b"5", b"\xff", b'{"campaignId": 5}', b'{"campaignId": "\xff"}', b"[" * 60_000,
    b'{"campaignId": ' + b"[" * 60_000,
]  # fmt: skip


@pytest.mark.parametrize("method", ["GetCampaign", "IssueCoupon"])
async def test_an_invalid_message_is_an_invalid_argument(api: Api, method: str) -> None:
    headers = {**api.admin, **(api.redeemer if method == "IssueCoupon" else {}), "content-type": "application/json"}
    for body in NO_MESSAGES:
        response = await api.client.post(f"{SERVICE}/{method}", content=body, headers=headers)
        failure(response, 400, "invalid_argument")
    headers["content-type"] = "application/proto"
    for body in (b"\xff", b"\x0a\xff", b"\x0a\x01\xff", b"\x00", b"\x2b" * 60_000):
        response = await api.client.post(f"{SERVICE}/{method}", content=body, headers=headers)
        failure(response, 400, "invalid_argument")


async def test_invalid_calls_are_refused(api: Api) -> None:
    path = f"{SERVICE}/IssueCoupon"
    response = await api.client.get(path, headers=api.redeemer)
    assert problem(response, 405)
    assert response.headers["allow"] == "POST"
    problem(await api.client.post(f"{SERVICE}/NoSuchMethod", json={}, headers=api.redeemer), 404)

    async def status(content_type: str, **headers: str) -> int:
        all_headers = {**api.redeemer, "content-type": content_type, **headers}
        return (await api.client.post(path, content=b"{}", headers=all_headers)).status_code

    assert await status("text/plain") == 415
    assert await status("application/grpc") == 415
    assert await status("application/grpc+proto") == 415
    assert await status("application/json", **{"connect-protocol-version": "2"}) == 400
    assert await status("application/json", **{"connect-timeout-ms": "soon"}) == 400
    assert await status("application/json", **{"content-encoding": "br"}) == 501
    assert await status("application/json", **{"content-encoding": "gzip"}) == 400
    big = await api.client.post(path, json={"campaignId": "x" * 70_000}, headers=api.redeemer)
    failure(big, 429, "resource_exhausted")
    odd = [(b"authorization", b"Bearer \xff"), (b"content-type", b"application/json")]
    failure(await api.client.post(path, content=b"{}", headers=odd), 401, "unauthenticated")
    # By the library.
    failure(await api.client.post(f"{SERVICE}/GetCampaign", content=b"{}", headers=odd), 401, "unauthenticated")


async def test_each_method_requires_a_key_with_its_scope(api: Api) -> None:
    failure(await call(api, "CreateCampaign", {}, name="A", total=1, startTime=PAST), 401, "unauthenticated")
    failure(
        await call(api, "CreateCampaign", api.redeemer, name="A", total=1, startTime=PAST), 403, "permission_denied"
    )
    campaign = await create(api)
    response = await call(api, "IssueCoupon", {}, campaignId=campaign)
    failure(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")
    failure(
        await call(api, "IssueCoupon", {"authorization": "Bearer isk_x"}, campaignId=campaign), 401, "unauthenticated"
    )
    failure(await call(api, "IssueCoupon", {"authorization": "Basic x"}, campaignId=campaign), 401, "unauthenticated")
    failure(await call(api, "IssueCoupon", api.admin, campaignId=campaign), 403, "permission_denied")
    failure(await call(api, "IssueCoupon", {}, campaignId=str(uuid4())), 401, "unauthenticated")
    failure(await call(api, "GetCampaign", {}, campaignId=campaign), 401, "unauthenticated")
    failure(await call(api, "GetCampaign", {}, campaignId="x"), 401, "unauthenticated")
    code = (await issue(api, campaign))["code"]
    assert (await call(api, "GetCampaign", campaignId=campaign)).json()["issuedCodes"] == [code]
    # A key that may request a code may see the campaign, but the issued codes are shown to administrators only.
    shown = (await call(api, "GetCampaign", api.redeemer, campaignId=campaign)).json()
    assert (shown["name"], shown["issuedCodes"]) == ("Concert", [])
    failure(await call(api, "GetCampaign", campaignId=str(uuid4())), 404, "not_found")
    failure(await call(api, "GetCampaign", campaignId="x"), 404, "not_found")


async def test_a_bound_key_sees_its_own_campaigns_only(api: Api) -> None:
    mine, others = (
        await api.key("admin", "redeem", client_id=uuid4()),
        await api.key("admin", "redeem", client_id=uuid4()),
    )
    campaign, house = await create(api, key=mine), await create(api)
    assert (await issue(api, campaign, mine))["code"]
    assert (await call(api, "GetCampaign", mine, campaignId=campaign)).json()["issuedCodes"]
    for foreign in (campaign, house):
        assert await issue(api, foreign, others) == {"code": "", "error": "not found"}
        failure(await call(api, "GetCampaign", others, campaignId=foreign), 404, "not_found")
    assert (await issue(api, campaign))["code"]
    client = await api.services.stores.postgres.fetchval(
        "SELECT client_id FROM campaigns WHERE batch_id = $1", UUID(house)
    )
    assert client == DEFAULT_CLIENT


async def test_without_auth_no_api_key_is_required(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"auth": Auth.OFF})) as api:
        campaign = await create(api, key={})
        code = (await issue(api, campaign, {}))["code"]
        assert (await call(api, "GetCampaign", {}, campaignId=campaign)).json()["issuedCodes"] == [code]
        assert (await issue(api, campaign, {"authorization": "Bearer whatever"}))["code"]


async def test_the_same_idempotency_key_gets_the_same_code(api: Api) -> None:
    campaign, other = await create(api, total=2), await create(api, total=2)
    headers = {**api.redeemer, "Idempotency-Key": "order-1"}
    first = await call(api, "IssueCoupon", headers, campaignId=campaign)
    again = await call(api, "IssueCoupon", headers, campaignId=campaign)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (await issue(api, campaign))["code"] != first.json()["code"]
    assert (await issue(api, campaign))["error"] == "sold out"
    assert (await call(api, "IssueCoupon", headers, campaignId=campaign)).json() == first.json()
    # The key belongs to the campaign.
    assert (await call(api, "IssueCoupon", headers, campaignId=other)).json() != first.json()
    for bad in ("", "x" * 256, "a\x7f"):
        response = await call(api, "IssueCoupon", {**api.redeemer, "Idempotency-Key": bad}, campaignId=campaign)
        failure(response, 400, "invalid_argument")


async def test_without_redis_and_postgres_calls_are_unavailable(settings: Settings) -> None:
    without_auth = settings.model_copy(update={"auth": Auth.OFF})
    async with running_app(without_auth) as api:
        campaign = await create(api, key={})
        await api.services.engine.aclose()
        response = await call(api, "IssueCoupon", {}, campaignId=campaign)
        assert failure(response, 503, "unavailable") == "not ready"
        assert response.headers["retry-after"] == "1"


async def test_issued_codes_are_in_the_ledger_without_a_customer_id(api: Api) -> None:
    """The events have no customer id, so the limits of the rules do not apply."""
    campaign = await create(api, total=3)
    rules = {"rules": {"maxpercustomer": 1}}
    assert (await api.client.patch(f"/api/v1/batches/{campaign}", json=rules, headers=api.admin)).status_code == 200
    codes = [(await issue(api, campaign))["code"] for _ in range(3)]
    assert all(codes)

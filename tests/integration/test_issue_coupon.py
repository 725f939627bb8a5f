"""IssueCoupon over a real socket: the fast path, the ASGI path and the library give the same answers."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType
from google.protobuf.timestamp_pb2 import Timestamp

from issuer.access.api_keys import create_key
from issuer.http.rpc.coupon.coupon_connect import CouponServiceClient
from issuer.http.rpc.coupon.coupon_pb2 import (
    CreateCampaignRequest,
    GetCampaignRequest,
    IssueCouponRequest,
    IssueCouponResponse,
)
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.api_process import ApiProcess
from tests.support.coupon_service import PAST, SERVICE

ISSUE = f"{SERVICE}/IssueCoupon"


@dataclass(frozen=True, slots=True)
class IssueServer:
    api: ApiProcess
    http: httpx.AsyncClient
    key: dict[str, str]

    async def create(self, total: int = 5, start: str = PAST) -> str:
        body = {"name": "Concert", "total": total, "startTime": start}
        response = await self.http.post(f"{SERVICE}/CreateCampaign", json=body, headers=self.key)
        assert response.status_code == 200, response.text
        return str(response.json()["campaignId"])

    def client(self, **options: Any) -> CouponServiceClient:
        return CouponServiceClient(self.api.url, **options)


@pytest_asyncio.fixture
async def server(settings: Settings, stores: Stores, tmp_path: Path) -> AsyncIterator[IssueServer]:
    _, secret = await create_key(stores.postgres, name="test", scopes=["redeem", "admin"], actor="test")
    with ApiProcess(settings, tmp_path) as api:
        await asyncio.to_thread(api.wait_until_ready)
        async with httpx.AsyncClient(base_url=api.url) as http:
            yield IssueServer(api, http, {"authorization": f"Bearer {secret}"})
    assert "Traceback" not in api.log.read_text()


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


COMPARED = ("content-type", "retry-after", "www-authenticate", "idempotency-replayed")


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one call: on the fast path, on the ASGI path (a chunked body), by the library (compressed)."""

    fast: httpx.Response
    asgi: httpx.Response
    library: httpx.Response


async def answers_to(server: IssueServer, body: bytes, headers: dict[str, str]) -> Answers:
    compressed = {**headers, "content-encoding": "gzip"}
    return Answers(
        await server.http.post(ISSUE, content=body, headers=headers),
        await server.http.post(ISSUE, content=_pieces(body), headers=headers),
        await server.http.post(ISSUE, content=gzip.compress(body), headers=compressed),
    )


def undated(response: httpx.Response) -> list[tuple[str, str]]:
    return [header for header in response.headers.multi_items() if header[0] != "date"]


def compared(response: httpx.Response) -> tuple[int, dict[str, str | None]]:
    return response.status_code, {name: response.headers.get(name) for name in COMPARED}


async def test_all_paths_answer_alike(server: IssueServer) -> None:
    campaign, sold_out, later = (
        await server.create(),
        await server.create(1),
        await server.create(start="2999-01-01T00:00:00Z"),
    )
    as_json = {**server.key, "content-type": "application/json"}
    as_proto = {**server.key, "content-type": "application/proto", "connect-protocol-version": "1"}
    await server.http.post(ISSUE, json={"campaignId": sold_out}, headers=server.key)

    async def same(body: bytes, headers: dict[str, str]) -> httpx.Response:
        answers = await answers_to(server, body, headers)
        fast, library = answers.fast, answers.library
        assert (fast.status_code, fast.content) == (answers.asgi.status_code, answers.asgi.content)
        assert undated(fast) == undated(answers.asgi)
        assert compared(fast) == compared(library)
        if fast.status_code == 200:
            assert fast.content == library.content
            assert ("vary" in fast.headers, "vary" in library.headers) == (False, True)
        else:
            assert fast.json()["code"] == library.json()["code"]
        return fast

    for wanted in (sold_out, later, str(uuid4()), "x", ""):
        message = IssueCouponRequest(campaign_id=wanted)
        in_json = await same(json.dumps({"campaignId": wanted}).encode(), as_json)
        assert in_json.json()["error"] in ("sold out", "not started", "not found")
        if wanted:
            # An empty message is an empty body, which has no length to announce.
            binary = await same(message.SerializeToString(), as_proto)
            assert IssueCouponResponse.FromString(binary.content).error == in_json.json()["error"]
    for name in ("order", "another"):
        keyed = {"idempotency-key": name}
        body = json.dumps({"campaign_id": campaign, "more": [1]}).encode()
        await server.http.post(ISSUE, content=body, headers={**as_json, **keyed})
        assert (await same(body, {**as_json, **keyed})).json()["code"]
        await same(IssueCouponRequest(campaign_id=campaign.upper()).SerializeToString(), {**as_proto, **keyed})
    good = json.dumps({"campaignId": campaign}).encode()
    for body in (b"{", b"[]", b"null", b"5", b'{"campaignId": 5}', b"[" * 4_000, b"\xff"):
        assert (await same(body, as_json)).status_code == 400
    for body in (b"\x0a\xff", b"\x00", b"\x0a\x01\xff"):
        assert (await same(body, as_proto)).status_code == 400
    plain = {"content-type": "application/json"}
    for more in ({}, {"authorization": "Bearer isk_no"}, {"authorization": "Basic x"}, {"authorization": ""}):
        assert (await same(good, {**plain, **more})).status_code == 401
    for bad in ("", "x" * 256):
        assert (await same(good, {**as_json, "idempotency-key": bad})).status_code == 400
    assert (await same(good, {**as_json, "connect-timeout-ms": "0"})).json()["code"] == "deadline_exceeded"
    # The library serves what is not an ordinary call.
    for odd in ({"connect-timeout-ms": "x"}, {"connect-protocol-version": "2"}):
        assert (await server.http.post(ISSUE, content=good, headers={**as_json, **odd})).status_code == 400
    in_text = {**as_json, "content-type": "text/plain"}
    assert (await server.http.post(ISSUE, content=good, headers=in_text)).status_code == 415


@pytest.mark.long
async def test_a_code_by_each_protocol_of_the_projects_own_client(server: IssueServer) -> None:
    campaign = await server.create(total=100)
    codes = []
    for options in (
        {}, {"send_compression": None}, {"codec": google_protobuf_json_codec()},
        {"codec": google_protobuf_json_codec(), "send_compression": None},
        {"protocol": ProtocolType.GRPC_WEB}, {"protocol": ProtocolType.GRPC_WEB, "codec": google_protobuf_json_codec()},
    ):  # fmt: skip
        async with server.client(**options) as client:
            said = await client.issue_coupon(
                IssueCouponRequest(campaign_id=campaign), headers=server.key, timeout_ms=10_000
            )
            assert (len(said.code), said.error) == (10, "")
            codes.append(said.code)
            shown = await client.get_campaign(GetCampaignRequest(campaign_id=campaign), headers=server.key)
            assert (shown.name, shown.total, list(shown.issued_codes)) == ("Concert", 100, codes)
            with pytest.raises(ConnectError) as not_found:
                await client.get_campaign(GetCampaignRequest(campaign_id=str(uuid4())), headers=server.key)
            assert not_found.value.code is Code.NOT_FOUND
            with pytest.raises(ConnectError) as refused:
                await client.issue_coupon(IssueCouponRequest(campaign_id=campaign))
            assert refused.value.code is Code.UNAUTHENTICATED
            with pytest.raises(ConnectError) as invalid:
                await client.create_campaign(CreateCampaignRequest(name="A", total=1), headers=server.key)
            assert invalid.value.code is Code.INVALID_ARGUMENT
            made = await client.create_campaign(
                CreateCampaignRequest(name="A", total=1, start_time=Timestamp(seconds=1)), headers=server.key
            )
            assert made.campaign_id


@pytest.mark.long
async def test_a_campaign_made_by_one_process_is_known_to_another_at_once(
    settings: Settings, server: IssueServer, tmp_path: Path
) -> None:
    """Also to the many that ask for it at the same time: it is looked up once."""
    with ApiProcess(settings, tmp_path) as other:
        await asyncio.to_thread(other.wait_until_ready)
        campaign = await server.create(total=30)
        async with httpx.AsyncClient(base_url=other.url, limits=httpx.Limits(max_connections=50)) as http:
            body = {"campaignId": campaign}
            answers = await asyncio.gather(*(http.post(ISSUE, json=body, headers=server.key) for _ in range(100)))
    assert [answer.status_code for answer in answers] == [200] * 100
    assert sum(answer.json()["error"] == "" for answer in answers) == 30


@pytest.mark.long
async def test_compressed_calls_and_bombs(server: IssueServer) -> None:
    campaign = await server.create()
    headers = {**server.key, "content-type": "application/json", "content-encoding": "gzip", "accept-encoding": "gzip"}
    body = gzip.compress(json.dumps({"campaignId": campaign}).encode())
    response = await server.http.post(ISSUE, content=body, headers=headers)
    assert response.json()["code"]
    # Answers are never compressed.
    assert response.headers["content-encoding"] == "identity"
    bomb = gzip.compress(b'{"campaignId": "' + b"x" * 50_000_000 + b'"}')
    assert len(bomb) < 65_536
    response = await server.http.post(ISSUE, content=bomb, headers=headers)
    assert (response.status_code, response.json()["code"]) == (429, "resource_exhausted")

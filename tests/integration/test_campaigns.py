"""Campaigns over REST: create, list, show, change, extend and end them; their codes, events and page."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from issuer.campaigns import feeds as feeds_module
from issuer.campaigns.cache import CampaignCache
from issuer.campaigns.campaign import DEFAULT_CLIENT
from issuer.campaigns.store import CampaignChanges, NewCampaign, change_campaign, create_campaign, find_campaign
from issuer.recovery.opening import open_stores
from issuer.settings import Auth, Settings
from issuer.storage.stores import Stores
from loadtest.processes import free_port
from tests.support.api import Api, problem, running_app
from tests.support.api_process import ApiProcess
from tests.support.coupon_service import PAST, ahead, call, failure, issue
from tests.support.databases import migrate_with_roles
from tests.support.servers import START_LIMIT_S, PostgresServer

pytestmark = pytest.mark.shared_app

PATH = "/api/v1/campaigns"


async def make(api: Api, key: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    body = {"name": "Concert", "total": 3, "starts_at": PAST, **fields}
    response = await api.client.post(PATH, json=body, headers=key or api.admin)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    assert response.headers["location"] == f"{PATH}/{made['id']}"
    return made


async def change(api: Api, campaign: str, key: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return await api.client.patch(f"{PATH}/{campaign}", json=fields, headers=key or api.admin)


async def test_a_campaign_is_created_shown_and_listed(api: Api) -> None:
    made = await make(api, total=2)
    expected = {
        "name": "Concert", "state": "open", "total": 2, "issued": 0, "remaining": 2,
        "starts_at": "2020-01-01T00:00:00.000Z", "paused": False, "public": False, "client_id": str(DEFAULT_CLIENT),
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert made["code_format"]["length"] == 10
    first = (await issue(api, made["id"]))["code"]
    shown = (await api.get(f"{PATH}/{made['id']}")).json()
    assert (shown["state"], shown["issued"], shown["remaining"]) == ("open", 1, 1)
    second = (await issue(api, made["id"]))["code"]
    assert (await api.get(f"{PATH}/{made['id']}")).json()["state"] == "sold_out"
    page = (await api.get(f"{PATH}/{made['id']}/codes?limit=1")).json()
    assert [(item["seq"], item["code"]) for item in page["items"]] == [(1, first)]
    page = (await api.get(f"{PATH}/{made['id']}/codes?limit=1&cursor={page['next_cursor']}")).json()
    assert ([item["code"] for item in page["items"]], page["next_cursor"]) == ([second], None)
    later = await make(api, starts_at=ahead(60), name="Later")
    assert later["state"] == "before"
    items = (await api.get(PATH)).json()["items"]
    assert [item["id"] for item in items] == [later["id"], made["id"]]
    page = (await api.get(f"{PATH}?limit=1")).json()
    assert [item["id"] for item in page["items"]] == [later["id"]]
    rest = (await api.get(f"{PATH}?limit=1&cursor={page['next_cursor']}")).json()
    assert ([item["id"] for item in rest["items"]], rest["next_cursor"]) == ([made["id"]], None)


async def test_the_list_of_batches_excludes_campaigns(api: Api) -> None:
    made = await make(api)
    batch, _ = await api.batch("A-1")
    assert [one["id"] for one in (await api.get("/api/v1/batches")).json()] == [str(batch)]
    assert [one["id"] for one in (await api.get("/api/v1/batches?limit=10")).json()["items"]] == [str(batch)]
    shown = (await api.get(f"/api/v1/batches/{made['id']}")).json()
    assert (shown["name"], shown["stock"][0]["total"]) == ("Concert", 3)


async def test_codes_have_the_format_of_their_campaign(api: Api) -> None:
    made = await make(api, code_format={"alphabet": "numeric", "length": 12, "prefix": "G-"})
    code = (await issue(api, made["id"]))["code"]
    assert code.startswith("G-")
    assert code[2:].isdecimal()
    assert len(code) == 14
    made = await make(api, code_format={"pattern": "AB-####-####"})
    assert len((await issue(api, made["id"]))["code"]) == 12
    # People type a code: by default it has no letters and digits that look alike.
    assert re.fullmatch("[2-9A-HJKMNP-TV-Z]{10}", (await issue(api, (await make(api))["id"]))["code"])


@pytest.mark.own_app
async def test_an_invalid_campaign_is_refused(api: Api) -> None:
    good = {"name": "A", "total": 5, "starts_at": PAST}
    for wrong in (
        {"name": ""}, {"name": None}, {"total": 0}, {"total": -1}, {"total": True}, {"total": "5"},
        {"total": 5_000_001},
        {"starts_at": None}, {"starts_at": "soon"}, {"starts_at": "2026-01-01T00:00:00"}, {"public": "yes"},
        {"client_id": "x" * 129}, {"code_format": 5}, {"code_format": {"length": 0}}, {"code_format": {"lengh": 5}},
        {"code_format": {"length": 1}}, {"code_format": {"alphabet": "A"}}, {"more": 1},
    ):  # fmt: skip
        response = await api.client.post(PATH, json={**good, **wrong}, headers=api.admin)
        problem(response, 400)
    assert await api.services.stores.postgres.fetchval("SELECT count(*) FROM batches") == 0
    problem(await api.get(f"{PATH}/x"), 400)
    assert problem(await api.get(f"{PATH}/{uuid4()}"), 404)["code"] == "campaign_not_found"
    problem(await api.get(f"{PATH}/{uuid4()}/codes"), 404)
    problem(await change(api, str(uuid4()), name="B"), 404)


async def test_the_start_of_a_campaign_cannot_be_changed_through_its_batch(api: Api) -> None:
    """It is never absent and always a whole ms; the campaign's own route ensures that."""
    made = await make(api)
    for start in (None, ahead(60)):
        changed = await api.client.patch(f"/api/v1/batches/{made['id']}", json={"starts_at": start}, headers=api.admin)
        problem(changed, 400, "starts_at of a campaign is changed with the campaign")
    assert (await api.get(f"{PATH}/{made['id']}")).json() == made
    assert (await change(api, made["id"], starts_at=ahead(60))).status_code == 200


async def test_changes_take_effect_from_the_next_request_on(api: Api) -> None:
    campaign = (await make(api))["id"]
    assert (await change(api, campaign, paused=True)).json()["state"] == "paused"
    assert (await issue(api, campaign))["error"] == "paused"
    assert (await change(api, campaign, paused=False, starts_at="2999-01-01T00:00:00.0001Z")).json()[
        "state"
    ] == "before"
    assert (await issue(api, campaign))["error"] == "not started"
    assert (await api.get(f"{PATH}/{campaign}")).json()["starts_at"] == "2999-01-01T00:00:00.001Z"
    assert (await change(api, campaign, starts_at=PAST, name="Gig")).json()["name"] == "Gig"
    assert (await issue(api, campaign))["code"]
    for wrong in (
        {"total": 2}, {"total": 0}, {"starts_at": None}, {"ended": False}, {"name": ""}, {"paused": 1}, {"more": 1},
    ):  # fmt: skip
        problem(await change(api, campaign, **wrong), 400)
    assert (await change(api, campaign, ended=True)).json()["state"] == "ended"
    assert (await issue(api, campaign))["error"] == "ended"
    problem(await change(api, campaign, total=10), 409)
    problem(await change(api, campaign, paused=True), 409)
    assert (await change(api, campaign, ended=True)).json()["state"] == "ended"


async def test_an_extension_generates_only_the_missing_codes(api: Api) -> None:
    campaign = (await make(api, total=2))["id"]
    codes = [(await issue(api, campaign))["code"] for _ in range(2)]
    assert (await issue(api, campaign))["error"] == "sold out"
    answers = await asyncio.gather(*(change(api, campaign, total=5) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert (await api.get(f"{PATH}/{campaign}")).json()["total"] == 5
    codes += [(await issue(api, campaign))["code"] for _ in range(3)]
    assert len(set(codes)) == 5
    assert (await issue(api, campaign))["error"] == "sold out"
    assert (await call(api, "GetCampaign", campaignId=campaign)).json()["issuedCodes"] == codes


async def test_a_campaign_whose_creator_was_killed_can_be_completed_or_ended(api: Api) -> None:
    stores = api.services.stores
    made = [(await make(api, total=2))["id"] for _ in range(2)]
    # The state after a process was killed before the last step.
    await stores.postgres.execute("UPDATE campaigns SET ready_at = NULL, revision = revision + 1")
    async with asyncio.timeout(START_LIMIT_S):
        while api.services.campaigns.find(made[0]) is not None:
            await asyncio.sleep(0.02)
    assert (await issue(api, made[0]))["error"] == "not found"
    assert (await api.get(f"{PATH}/{made[0]}")).json()["state"] == "preparing"
    assert (await change(api, made[0], total=2)).json()["state"] == "open"
    async with asyncio.timeout(START_LIMIT_S):
        while not (await issue(api, made[0]))["code"]:
            await asyncio.sleep(0.05)
    assert (await change(api, made[1], ended=True)).json()["state"] == "ended"


def count_failed_looks(cache: CampaignCache, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Return a list that gets an entry for each refresh of the cache that fails."""
    failures: list[Exception] = []
    refresh = cache._watch._refresh

    async def watched() -> None:
        try:
            await refresh()
        except Exception as error:
            failures.append(error)
            raise

    monkeypatch.setattr(cache._watch, "_refresh", watched)
    return failures


@pytest.mark.long
async def test_cached_campaigns_issue_without_postgres(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresServer(tmp_path / "postgres", durable=False) as postgres:
        own = settings.model_copy(update={"database_url": SecretStr(postgres.url())})
        await migrate_with_roles(own)
        async with running_app(own) as api:
            campaign = (await make(api, total=10))["id"]
            async with asyncio.timeout(START_LIMIT_S):
                while api.services.campaigns.find(campaign) is None:
                    await asyncio.sleep(0.02)
            failed_looks = count_failed_looks(api.services.campaigns, monkeypatch)
            await asyncio.to_thread(postgres.stop)
            async with asyncio.timeout(START_LIMIT_S):
                while len(failed_looks) < 2:
                    await asyncio.sleep(0.02)
            codes = {(await issue(api, campaign))["code"] for _ in range(10)}
            assert len(codes - {""}) == 10
            assert (await issue(api, campaign))["error"] == "sold out"
            unknown = await call(api, "IssueCoupon", api.redeemer, campaignId=str(uuid4()))
            failure(unknown, 503, "unavailable")
            failure(await call(api, "GetCampaign", campaignId=campaign), 503, "unavailable")
            response = await call(api, "CreateCampaign", name="B", total=1, startTime=PAST)
            assert failure(response, 503, "unavailable") == "postgres unavailable"


async def test_without_redis_no_campaign_is_created(settings: Settings) -> None:
    lonely = settings.model_copy(
        update={"redis_url": SecretStr(f"redis://127.0.0.1:{free_port()}/0"), "auth": Auth.OFF}
    )
    async with running_app(lonely, ready=False) as api:
        response = await call(api, "CreateCampaign", {}, name="A", total=1, startTime=PAST)
        failure(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"
        (only,) = (await api.client.get(PATH)).json()["items"]
        assert (only["state"], only["issued"]) == ("ended", None)


async def test_campaigns_can_be_created_and_extended_with_one_pooled_connection(settings: Settings) -> None:
    new = NewCampaign("Concert", 3, datetime(2020, 1, 1, tzinfo=UTC))
    async with open_stores(settings, postgres_size=1) as stores, asyncio.timeout(20):
        made, _ = await asyncio.gather(*(create_campaign(stores, new, actor="test") for _ in range(2)))
        more = CampaignChanges(total=5)
        await asyncio.gather(*(change_campaign(stores, made.id, more, actor="test") for _ in range(3)))
        assert (await find_campaign(stores.postgres, made.id)).total == 5


async def test_changes_of_campaigns_are_in_the_audit_log(api: Api) -> None:
    campaign = (await make(api))["id"]
    await change(api, campaign, public=True, total=4)
    entries = (await api.get("/api/v1/audit")).json()["items"]
    actions = [entry["action"] for entry in entries if entry["subject"] == f"batch:{campaign}"]
    assert actions == [
        "campaign.extend", "codes.generate", "campaign.change", "campaign.create", "codes.generate", "batch.create",
    ]  # fmt: skip


async def test_tenants(api: Api) -> None:
    mine = uuid4()
    bound, other = await api.key("admin", client_id=mine), await api.key("admin", client_id=uuid4())
    campaign = await make(api, bound)
    assert campaign["client_id"] == str(mine)
    path = f"{PATH}/{campaign['id']}"
    assert [one["id"] for one in (await api.get(PATH, bound)).json()["items"]] == [campaign["id"]]
    assert (await api.get(PATH, other)).json()["items"] == []
    assert (await api.get(path, bound)).status_code == 200
    for response in (
        await api.get(path, other), await api.get(f"{path}/codes", other), await api.get(f"{path}/events", other),
        await change(api, campaign["id"], other, paused=True),
    ):  # fmt: skip
        problem(response, 404)
    body = {"name": "A", "total": 1, "starts_at": PAST, "client_id": str(uuid4())}
    assert problem(await api.client.post(PATH, json=body, headers=bound), 403)["code"] == "bound_key"
    assert (await make(api, client_id=str(mine)))["client_id"] == str(mine)
    assert len((await api.get(PATH, bound)).json()["items"]) == 2


async def test_a_public_campaign_needs_no_key_as_soon_as_it_is_public(api: Api) -> None:
    campaign = (await make(api, total=100))["id"]
    failure(await call(api, "IssueCoupon", {}, campaignId=campaign), 401, "unauthenticated")
    assert (await api.client.get(f"/c/{campaign}")).status_code == 404
    problem(await api.client.get(f"{PATH}/{campaign}/events"), 401)
    problem(await api.client.get(f"{PATH}/{uuid4()}/events"), 401)
    problem(await api.client.get(f"{PATH}/{campaign}/events", headers=api.redeemer), 403)
    assert CampaignCache.POLL_S < 1, "within a second, it is promised"
    await change(api, campaign, public=True)
    async with asyncio.timeout(START_LIMIT_S):
        while (await call(api, "IssueCoupon", {}, campaignId=campaign)).status_code == 401:
            await asyncio.sleep(0.02)
    assert (await issue(api, campaign, {}))["code"]
    # Also with keys that may not redeem, or of another client; an invalid key is refused.
    assert (await issue(api, campaign, api.admin))["code"]
    assert (await issue(api, campaign, await api.key("redeem", client_id=uuid4())))["code"]
    failure(
        await call(api, "IssueCoupon", {"authorization": "Bearer isk_x"}, campaignId=campaign), 401, "unauthenticated"
    )
    shown = (await call(api, "GetCampaign", {}, campaignId=campaign)).json()
    assert (shown["name"], shown["issuedCodes"]) == ("Concert", [])
    await change(api, campaign, public=False)
    async with asyncio.timeout(START_LIMIT_S):
        while (await call(api, "IssueCoupon", {}, campaignId=campaign)).status_code == 200:
            await asyncio.sleep(0.02)


@pytest.mark.own_app
async def test_a_campaign_that_could_not_be_created_is_ended(api: Api) -> None:
    """Nearly all codes of this format have an unlucky word, so they cannot be drawn: its batch is ended."""
    form = {"alphabet": "ab", "length": 12, "unlucky": False, "unlucky_words": ["aa", "ab", "ba"]}
    body = {"name": "A", "total": 5, "starts_at": PAST, "code_format": form}
    problem(await api.client.post(PATH, json=body, headers=api.admin), 400)
    (only,) = (await api.get(PATH)).json()["items"]
    assert only["state"] == "ended"
    assert (await issue(api, only["id"]))["error"] == "not found"
    assert (await api.client.get(f"/c/{only['id']}")).status_code == 404


async def test_one_response_lists_a_bounded_number_of_codes(api: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr("issuer.http.campaigns.connect_service.MAX_ISSUED", 2)
    monkeypatch.setattr("issuer.campaigns.issued.BATCH_SIZE", 1)
    campaign = (await make(api, name='[]"]}'))["id"]
    codes = [(await issue(api, campaign))["code"] for _ in range(2)]
    shown = (await call(api, "GetCampaign", campaignId=campaign)).json()
    assert (shown["issuedCodes"], shown["name"]) == (codes, '[]"]}')
    await issue(api, campaign)
    failure(await call(api, "GetCampaign", campaignId=campaign), 429, "resource_exhausted")


async def test_the_page_escapes_names(api: Api) -> None:
    name = "<script>alert(1)</script> & $name </title>"
    campaign = (await make(api, name=name, public=True))["id"]
    response = await api.client.get(f"/c/{campaign}")
    assert response.status_code == 200
    assert "<script>alert" not in response.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $name &lt;/title&gt;" in response.text
    assert "unsafe" not in response.headers["content-security-policy"]
    data = json.loads(response.text.partition('type="application/json">')[2].partition("</script>")[0])
    assert (data["id"], data["state"], data["remaining"]) == (campaign, "open", 3)


async def test_a_page_that_is_not_public_looks_like_one_that_does_not_exist(api: Api) -> None:
    hidden = (await make(api))["id"]
    german = {"accept-language": "de-AT, en;q=0.5"}
    pages = [await api.client.get(f"/c/{id_}", headers=german) for id_ in (hidden, uuid4(), "no-id")]
    for page in pages:
        assert (page.status_code, page.text) == (404, pages[0].text)
        assert page.headers["content-type"].startswith("text/html")
        assert (page.headers["content-language"], page.headers["vary"]) == ("de", "Accept, Accept-Language, Cookie")
        assert "script-src 'none'" in page.headers["content-security-policy"]
    assert '<html lang="de">' in pages[0].text
    assert "Hier ist nichts" in pages[0].text
    for id_ in (hidden, uuid4(), "no-id"):
        response = await api.client.get(f"/c/{id_}", headers={"accept": "application/json"})
        assert problem(response, 404)["code"] == "campaign_not_found"
    public = (await make(api, public=True))["id"]
    # A parameter that was appended where the link was passed on changes nothing.
    assert "Code abholen" in (await api.client.get(f"/c/{public}?utm_source=mail&utm_source=news", headers=german)).text


async def listen(
    api: Api, campaign: str, count: int, heartbeat_s: float = 10, updates: list[Any] | None = None
) -> list[Any]:
    """Return the first `count` updates of a feed; `updates` gets each as it arrives."""
    stores = api.services.stores
    found = await find_campaign(stores.postgres, UUID(campaign))
    updates = [] if updates is None else updates
    async with aclosing(api.services.feeds.ticks(found, heartbeat_s=heartbeat_s)) as feed:
        async for update in feed:
            updates.append(update)
            if len(updates) == count:
                break
    return updates


async def until_all_heard(received: list[list[Any]]) -> None:
    """Wait until every listener has received an update."""
    async with asyncio.timeout(START_LIMIT_S):
        while not all(received):
            await asyncio.sleep(0.01)


async def test_many_listeners_share_one_poll(api: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr(feeds_module, "POLL_S", 0.05)
    campaign = (await make(api))["id"]
    received: list[list[Any]] = [[] for _ in range(20)]
    listeners = [asyncio.create_task(listen(api, campaign, 2, updates=updates)) for updates in received]
    await until_all_heard(received)
    assert api.services.feeds.polls == 1
    await issue(api, campaign)
    for updates in await asyncio.gather(*listeners):
        assert [update.counters.issued for update in updates] == [0, 1]
        assert updates[1].rate_per_s > 0
    assert (await listen(api, campaign, 3, heartbeat_s=0.01))[-1] is None
    assert api.services.feeds.polls == 0


@pytest.mark.long
async def test_a_feed_reports_the_start_at_once_and_ends_with_the_campaign(api: Api, monkeypatch: Any) -> None:
    # The next ordinary poll would be too late for the time limit of this test.
    monkeypatch.setattr(feeds_module, "POLL_S", 10 * START_LIMIT_S)
    campaign = (await make(api, starts_at=ahead(5)))["id"]
    async with asyncio.timeout(START_LIMIT_S):
        before, opened = await listen(api, campaign, 2, heartbeat_s=START_LIMIT_S)
    assert (before.counters.state, opened.counters.state) == ("before", "open")
    assert opened.counters.now_ms >= opened.counters.starts_at_ms
    await change(api, campaign, ended=True)
    (last,) = await listen(api, campaign, 5)
    assert last.counters.state == "ended"


async def test_listeners_are_bounded(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"max_event_streams": 1})) as api:
        campaign = (await make(api, public=True))["id"]
        assert api.services.slots.streams.try_take(("another client", "another address")) is None
        response = await api.client.get(f"{PATH}/{campaign}/events")
        assert problem(response, 503, "too many streams at once")["code"] == "overloaded"
        assert response.headers["retry-after"] == "10"


async def test_a_stream_ends_after_an_hour(api: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr("issuer.http.campaigns.events.MAX_STREAM_S", 0)
    campaign = (await make(api, public=True))["id"]
    response = await api.client.get(f"{PATH}/{campaign}/events")
    assert response.text.count("event: counters") == 1
    assert api.services.slots.streams.used == 0


async def test_streams_end_with_the_process(api: Api) -> None:
    campaign = (await make(api, public=True))["id"]
    updates: list[Any] = []
    listening = asyncio.create_task(listen(api, campaign, 99, updates=updates))
    await until_all_heard([updates])
    api.app.end_streams()
    assert len(await listening) == 1


@pytest.mark.own_app
async def test_the_stream_of_an_ended_campaign_reports_the_end_and_closes(api: Api) -> None:
    campaign = (await make(api, public=True))["id"]
    await change(api, campaign, ended=True)
    response = await api.client.get(f"{PATH}/{campaign}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    _, event, *_ = response.text.split("\n\n")
    assert event.startswith("event: counters\ndata: ")
    said = json.loads(event.partition("data: ")[2])
    assert said["state"] == "ended"
    assert abs((datetime.fromisoformat(said["now"]) - datetime.now(UTC)).total_seconds()) < 5


@pytest.mark.long
async def test_open_streams_do_not_delay_a_process_that_stops(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    new = NewCampaign(name="Concert", total=1, starts_at=datetime.now(UTC), public=True)
    campaign = await create_campaign(stores, new, actor="test")
    with ApiProcess(settings, tmp_path, ISSUER_SHUTDOWN_TIMEOUT_S="50") as process:
        await asyncio.to_thread(process.wait_until_ready)
        async with (
            httpx.AsyncClient(base_url=process.url) as http,
            http.stream("GET", f"{PATH}/{campaign.id}/events") as response,
        ):
            lines = response.aiter_lines()
            while not (await anext(lines)).startswith("data:"):
                pass
            started = asyncio.get_running_loop().time()
            await asyncio.to_thread(process.stop)
            assert [line async for line in lines] == [""]
            assert asyncio.get_running_loop().time() - started < 25

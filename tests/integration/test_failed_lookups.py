"""Failed lookups are counted by caller: one over its limit gets no answer about any code, and all others get theirs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from issuer.access.api_keys import ApiKey
from issuer.http.limiting.failed_lookups import FailedLookupLimits, is_public
from issuer.http.problems.problem import ProblemError
from issuer.http.services import Services
from issuer.settings import Auth, Settings
from tests.support.api import Api, problem, running_app
from tests.support.coupons import CONSUME, COUPON, Till

ADDRESS = "192.0.2.1"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with running_app(settings.model_copy(update={"failed_lookup_limit": "10/h"})) as api:
        yield api


async def look_up(api: Api, code: str, key: dict[str, str], address: str = ADDRESS) -> int:
    headers = {**key, "X-Forwarded-For": address}
    return (await api.client.get(f"/api/v1/codes/{code}", headers=headers)).status_code


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=(pytest.mark.long, pytest.mark.minutes))])
async def test_ten_of_many_wrong_codes_are_answered(api: Api, count: int) -> None:
    _, client = await api.batch("RIGHT", client=uuid4())
    key = await api.key("admin", client_id=client)
    seats = asyncio.Semaphore(64)

    async def attempt(number: int) -> int:
        async with seats:
            return await look_up(api, f"WRONG-{number}", key)

    statuses = Counter(await asyncio.gather(*(attempt(number) for number in range(count))))
    assert statuses == {404: 10, 429: count - 10}
    # Not even an existing code is confirmed to a caller over the limit, with whatever key.
    assert await look_up(api, "RIGHT", key) == 429
    assert await look_up(api, "RIGHT", await api.key("admin", client_id=client)) == 429
    refused = await api.client.get("/api/v1/codes/RIGHT", headers={**key, "X-Forwarded-For": ADDRESS})
    found = problem(refused, 429, "too many unknown codes")
    assert (found["code"], found["violated-policies"]) == ("too_many_failed_lookups", ["failed_lookups_address"])
    # The wait is not longer than a period, however many lookups failed.
    assert int(refused.headers["retry-after"]) <= 3_600
    # Other callers with the same key are not over the limit.
    assert await look_up(api, "RIGHT", key, "198.51.100.7") == 200
    assert await look_up(api, "WRONG", key, "198.51.100.7") == 404
    metrics = (await api.get("/metrics")).text
    assert f'issuer_rate_limited_total{{limit="failed_lookups_address"}} {count - 7}.0' in metrics


async def test_successful_lookups_are_not_counted(api: Api) -> None:
    _, client = await api.batch("RIGHT", client=uuid4())
    key = await api.key("admin", client_id=client)
    for _ in range(9):
        assert await look_up(api, "WRONG", key) == 404
    # One token is left: the third of three at once may have to wait until the others are known to have failed or not.
    assert (await asyncio.gather(*(look_up(api, "RIGHT", key) for _ in range(3))))[:2] == [200, 200]
    for _ in range(30):
        assert await look_up(api, "RIGHT", key) == 200
    assert await look_up(api, "WRONG", key) == 404
    # As many wrong codes as the limit allows: the caller is not refused.
    assert await look_up(api, "RIGHT", key) == 200
    assert await look_up(api, "WRONG", key) == 429
    assert await look_up(api, "RIGHT", key) == 429


async def test_operators_have_no_limit(api: Api) -> None:
    for _ in range(30):
        assert await look_up(api, "WRONG", api.admin) == 404


async def test_a_server_with_a_limit_of_its_own_is_the_caller(api: Api) -> None:
    _, client = await api.batch("RIGHT", client=uuid4())
    server = await api.key("admin", client_id=client, failed_lookup_limit="20/h")
    assert [await look_up(api, "WRONG", server) for _ in range(21)] == [404] * 20 + [429]
    assert await look_up(api, "RIGHT", server) == 429
    # Neither the address with another key nor the key at another address.
    assert await look_up(api, "RIGHT", await api.key("admin", client_id=client)) == 200
    assert await look_up(api, "RIGHT", server, "198.51.100.7") == 200


async def test_an_ipv6_caller_has_a_whole_network(api: Api) -> None:
    _, client = await api.batch("RIGHT", client=uuid4())
    key = await api.key("admin", client_id=client)
    statuses = [await look_up(api, "WRONG", key, f"2001:db8::{number:x}") for number in range(1, 12)]
    assert statuses == [404] * 10 + [429]
    assert await look_up(api, "RIGHT", key, "2001:db8::ffff:1") == 429
    assert await look_up(api, "RIGHT", key, "2001:db8:0:1::1") == 200


async def test_a_till_that_types_ten_wrong_codes_a_minute_is_not_refused(settings: Settings) -> None:
    async with running_app(settings) as api:
        till = await Till.of(api)
        await till.make("SAVE20", 50)
        for number in range(10):
            problem(await till.use(f"WRONG{number}"), 404, "no coupon found")
            assert (await till.use("SAVE20")).status_code == 200
        assert (await till.look("SAVE20"))["valid"]


async def test_callers_of_a_public_key_do_not_stop_each_other(settings: Settings) -> None:
    """An attacker with many addresses gets what the key may have, and one attempt more for each address."""
    limits = {"failed_lookup_limit": "10/h", "failed_lookup_limit_public_key": "25/h"}
    async with running_app(settings.model_copy(update=limits)) as api:
        till = await Till.of(api)
        await till.make("SAVE20", 50)
        public = await api.key("public", client_id=till.client_id)

        async def look(code: str, address: str) -> tuple[int, bool]:
            headers = public | {"X-Forwarded-For": address}
            response = await api.client.get(CONSUME, params={"code": code}, headers=headers)
            return response.status_code, response.json().get("valid", False)

        answered = Counter([(await look("WRONG", f"192.0.2.{number}"))[0] for number in range(8) for _ in range(10)])
        assert answered == {200: 25, 429: 55}
        # Above the limit of the key an address that has failed once more is refused, also with the right code.
        assert (await look("WRONG", "198.51.100.1"))[0] == 429
        assert (await look("WRONG", "198.51.100.1"))[0] == 429
        assert (await look("SAVE20", "198.51.100.1"))[0] == 429
        # All others are answered, however far the key is above its limit.
        assert [await look("SAVE20", f"203.0.113.{number}") for number in range(9)] == [(200, True)] * 9
        refused = await api.client.get(CONSUME, params={"code": "WRONG"}, headers=public)
        policies = problem(refused, 429, "too many unknown codes")["violated-policies"]
        assert policies == ["failed_lookups_public_key"]
        assert int(refused.headers["retry-after"]) <= 3_600


async def test_without_keys_addresses_count_only_if_the_proxies_are_known(settings: Settings) -> None:
    off = settings.model_copy(update={"auth": Auth.OFF, "failed_lookup_limit": "10/h"})
    assert not off.counts_addresses
    async with running_app(off) as api:
        assert [await look_up(api, "WRONG", {}) for _ in range(12)] == [404] * 12
    known = off.model_copy(update={"trusted_proxies": "127.0.0.1"})
    async with running_app(known) as api:
        assert [await look_up(api, "WRONG", {}) for _ in range(12)] == [404] * 10 + [429] * 2
        assert await look_up(api, "WRONG", {}, "198.51.100.7") == 404


async def test_the_limit_can_be_switched_off(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"failed_lookup_limit": "off"})) as api:
        key = await api.key("admin", client_id=uuid4())
        assert [await look_up(api, "WRONG", key) for _ in range(30)] == [404] * 30


def key_of(services: Services, headers: dict[str, str]) -> ApiKey:
    found = services.keys.find(headers["Authorization"].removeprefix("Bearer "))
    assert found is not None
    return found


async def fail(lookup_limits: FailedLookupLimits, key: ApiKey, address: str, customer: bytes) -> bool:
    """Fail a lookup; return whether the caller learned that it failed."""
    try:
        with lookup_limits.attempt(key, address, customer) as attempt:
            await attempt.failed()
    except ProblemError as refusal:
        return refusal.status != 429
    return True


async def test_a_customer_is_counted_with_the_server_that_names_it(api: Api) -> None:
    client = uuid4()
    lookup_limits = api.services.lookup_limits
    # A shop's server: many customers behind one key with a large limit of its own.
    server, other_server, theirs = [
        key_of(api.services, await api.key("redeem", client_id=owner, failed_lookup_limit="1000/h"))
        for owner in (client, client, uuid4())
    ]
    learned = [await fail(lookup_limits, server, ADDRESS, b"customer 7") for _ in range(12)]
    assert learned == [True] * 10 + [False] * 2
    assert await fail(lookup_limits, server, ADDRESS, b"customer 8")
    # The same customer through another key of the same client, but not somewhere else or with another client.
    assert not await fail(lookup_limits, other_server, ADDRESS, b"customer 7")
    assert await fail(lookup_limits, server, "198.51.100.1", b"customer 7")
    assert await fail(lookup_limits, theirs, ADDRESS, b"customer 7")


async def test_naming_a_customer_does_not_lock_it(api: Api) -> None:
    till = await Till.of(api)
    await till.make("SAVE20", 50)
    public, victim = await api.key("public", client_id=till.client_id), str(uuid4())

    async def use(code: str, key: dict[str, str], address: str) -> int:
        body = {"code": code, "customer_id": victim}
        headers = key | {"X-Forwarded-For": address}
        return (await api.client.post(CONSUME, json=body, headers=headers)).status_code

    for number in range(30):
        await use(f"WRONG{number}", public, ADDRESS)
    for key in (public, till.till):
        assert await use("SAVE20", key, "198.51.100.7") == 200


async def test_failed_lookups_are_counted_over_all_processes(settings: Settings) -> None:
    limited = settings.model_copy(update={"failed_lookup_limit": "10/h"})
    async with running_app(limited) as one, running_app(limited) as two:
        key = await one.key("admin", client_id=uuid4())
        async with asyncio.timeout(20):
            while two.services.keys.find(key["Authorization"].removeprefix("Bearer ")) is None:
                await asyncio.sleep(0.01)
        statuses = Counter([await look_up(api, "WRONG", key) for _ in range(20) for api in (one, two)])
        assert statuses == {404: 10, 429: 30}


async def test_without_redis_only_operators_look_codes_up(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    async with running_app(nowhere, ready=False) as api:
        bound, operator = await api.key("admin", client_id=uuid4()), await api.key("admin")
        problem(await api.get("/api/v1/codes/WRONG", bound), 503, "not ready")
        problem(await api.get("/api/v1/codes/WRONG", operator), 404, "no code found")


async def test_a_public_key_administrates_nothing(api: Api) -> None:
    key = await api.key("public", client_id=uuid4())
    assert is_public(key_of(api.services, key))
    problem(await api.get("/api/v1/codes/WRONG", key), 403, "the api key lacks the scope for this")
    problem(await api.client.post("/api/v1/code/redeem", json={}, headers=key), 403)


def not_found(found: dict[str, Any]) -> bool:
    return found == {"valid": False, "reason": "no coupon found", "reason_code": "coupon_not_found"}


async def test_validate_use_and_show_count_failed_lookups_together(api: Api) -> None:
    till = await Till.of(api)
    await till.make("SAVE20", 50)
    for number in range(4):
        assert not_found(await till.look(f"WRONG{number}"))
        problem(await till.use(f"WRONG{number}"), 404, "no coupon found")
    for code in ("SAVE20", "save-20"):
        assert (await till.look(code))["valid"]
        assert (await till.use(code)).status_code == 200
    for _ in range(2):
        problem(await api.client.get(COUPON, params={"code": "WRONG"}, headers=till.till), 404)
    problem(await till.use("WRONG"), 429, "too many unknown codes")
    problem(await till.use("SAVE20"), 429, "too many unknown codes")
    for path in (COUPON, CONSUME):
        found = await api.client.get(path, params={"code": "SAVE20"}, headers=till.till)
        assert problem(found, 429)["violated-policies"] == ["failed_lookups_address"]
    # An operator has no limit.
    assert (await api.client.get(COUPON, params={"code": "SAVE20"}, headers=api.admin)).status_code == 200
    # A wrong product or a coupon that is used up is no failed lookup.
    other = await Till.of(api)
    await other.make("ONCE", 1)
    headers = {"X-Forwarded-For": ADDRESS}
    for _ in range(20):
        await api.client.post(CONSUME, params={"code": "ONCE"}, headers=other.till | headers)
    problem(await api.client.post(CONSUME, params={"code": "ONCE"}, headers=other.till | headers), 409)


async def test_a_customer_over_the_limit_is_refused_behind_a_servers_key(api: Api) -> None:
    till = await Till.of(api)
    await till.make("SAVE20", 50)
    server = await api.key("redeem", client_id=till.client_id, failed_lookup_limit="1000/h")
    enumerating, other = str(uuid4()), str(uuid4())

    async def use(code: str, customer: str) -> int:
        fields = {"code": code, "customer_id": customer}
        return (await api.client.post(CONSUME, json=fields, headers=server)).status_code

    assert [await use(f"WRONG{number}", enumerating) for number in range(12)] == [404] * 10 + [429] * 2
    assert await use("SAVE20", enumerating) == 429
    assert await use("SAVE20", other) == 200


async def test_a_public_key_cannot_distinguish_unknown_from_expired(api: Api) -> None:
    till = await Till.of(api)
    await till.make("NEVER", 5, expiry_date="15-Jan-2020")
    await till.make("SAVE20", 5)
    public = await api.key("public", client_id=till.client_id)
    looked, used = [], []
    for code in ("NEVER", "WRONG"):
        look = await api.client.get(CONSUME, params={"code": code}, headers=public)
        use = await api.client.post(CONSUME, params={"code": code}, headers=public)
        looked.append((look.status_code, look.json()))
        used.append((use.status_code, use.json()))
    assert looked == [(200, {"valid": False, "reason": "code not valid", "reason_code": "code_not_valid"})] * 2
    assert used[0] == used[1]
    assert (used[0][0], used[0][1]["code"]) == (404, "code_not_valid")
    good = await api.client.post(CONSUME, params={"code": "SAVE20"}, headers=public)
    assert good.status_code == 200
    # It uses coupons; it neither shows them nor reverses uses.
    assert (await api.client.get(COUPON, params={"code": "SAVE20"}, headers=public)).status_code == 403
    assert (await till.reverse(good.json()["consumption_id"], public)).status_code == 403
    # Other keys learn why.
    problem(await till.use("NEVER"), 410, "coupon expired")
    # For a public key an expired coupon counts as a failed lookup.
    for _ in range(7):
        await api.client.get(CONSUME, params={"code": "NEVER"}, headers=public)
    problem(await api.client.get(CONSUME, params={"code": "SAVE20"}, headers=public), 429)

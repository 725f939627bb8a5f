"""What the API has answered is in the series of its pool, and in that of the installation."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from issuer.contract.keys import batch_keys, pool_of_key
from issuer.recovery.opening import open_stores
from issuer.series.rates import refresh_rates
from issuer.storage.grants import Process
from issuer.storage.postgres import PostgresUnavailableError
from tests.support.api import Api, problem
from tests.support.environment import settings_as

pytestmark = pytest.mark.shared_app


async def sums(api: Api, path: str, key: dict[str, str] | None = None) -> dict[str, int]:
    """Return how often each outcome occurred, from a series whose last steps have all of it."""
    await api.services.series.record()
    shown = (await api.get(path, key)).json()
    steps = {"15m": 15, "24h": 288, "30d": 720}[shown["span"]]
    assert {len(column) for column in shown["outcomes"].values()} == {steps}
    return {outcome: total for outcome, column in shown["outcomes"].items() if (total := sum(column[-2:]))}


async def test_answers_of_a_batch_are_counted_by_client_and_outcome(api: Api) -> None:
    mine, other = uuid4(), uuid4()
    rows = [(mine, "S-1"), (mine, "S-2"), (other, "S-3")]
    batch = (await api.upload(rows, name="Series", rules='{"maxpercustomer": 1}')).json()["batch_id"]
    before = await sums(api, "/api/v1/series?span=15m")
    customer = uuid4()
    for _ in range(2):
        await api.redeem(batch, mine, customer, **{"Idempotency-Key": "one"})
    await api.redeem(batch, mine, customer)
    await api.redeem(batch, other)
    # Neither is a pool, and neither may keep the others from being counted.
    await api.redeem(batch, uuid4())
    await api.redeem(uuid4(), mine)
    await api.client.post("/api/v1/code/redeem", json={}, headers=api.redeemer)
    path = f"/api/v1/batches/{batch}/series"
    granted = {"granted": 1, "replayed": 1, "limit_reached": 1}
    for span in ("15m", "24h", "30d"):
        assert await sums(api, f"{path}?span={span}") == {**granted, "granted": 2}
    assert await sums(api, f"{path}?client_id={mine}") == granted
    assert await sums(api, path, await api.key("admin", client_id=other)) == {"granted": 1}
    after = await sums(api, "/api/v1/series?span=15m")
    new = {outcome: count - before.get(outcome, 0) for outcome, count in after.items()}
    assert new == {**granted, "granted": 2, "sold_out": 1, "unknown_batch": 1, "invalid": 1}
    problem(await api.get(f"{path}?span=1h"), 400)


async def test_campaigns_and_coupons_have_series(api: Api) -> None:
    coupon = (await api.client.post(
        "/coupon/", json={"code": "SERIES", "availability_count": 1, "client_id": str(uuid4())}, headers=api.admin
    )).json()  # fmt: skip
    use = {"code": "SERIES", "client_id": coupon["client_id"], "customer_id": str(uuid4())}
    for _ in range(2):
        await api.client.post("/coupon/consume/", json=use, headers=api.redeemer)
    new = {"name": "Series", "total": 1, "starts_at": "2020-01-01T00:00:00Z", "public": True}
    campaign = (await api.client.post("/api/v1/campaigns", json=new, headers=api.admin)).json()["id"]
    for _ in range(3):
        await api.client.post("/coupon.CouponService/IssueCoupon", json={"campaignId": campaign})
    assert await sums(api, f"/api/v1/coupons/{coupon['id']}/series?span=15m") == {"granted": 1, "sold_out": 1}
    assert await sums(api, f"/api/v1/campaigns/{campaign}/series") == {"granted": 1, "sold_out": 2}
    problem(await api.get(f"/api/v1/coupons/{campaign}/series"), 404)


async def test_what_cannot_be_written_is_written_later(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, client = await api.batch("LATER-1", "LATER-2")
    await api.services.series.record()
    await api.redeem(batch, client)

    async def refuse(*_: object) -> None:
        raise PostgresUnavailableError("a test")

    with monkeypatch.context() as patched:
        patched.setattr("issuer.http.metrics.series_recorder.add_counts", refuse)
        with pytest.raises(PostgresUnavailableError):
            await api.services.series.record()
    await api.redeem(batch, client)
    assert await sums(api, f"/api/v1/batches/{batch}/series") == {"granted": 2}
    (pulse,) = await api.owner.fetch("SELECT outcomes, durations, period_s FROM pulses")
    assert pulse["period_s"] > 0
    assert sum(pulse["durations"]) == 1, "the second one: the first was in the pulse that was not written"


def test_the_pool_is_read_from_its_key() -> None:
    batch, client = uuid4(), uuid4()
    assert pool_of_key(batch_keys(7, batch).pool(client)) == (batch, client)


async def test_every_stock_says_when_it_will_be_empty(api: Api) -> None:
    batch, client = await api.batch(*(f"RATE-{number}" for number in range(100)))
    await api.redeem(batch, client)
    # Ten a minute for the last two hours; the API has written one more just now.
    await api.owner.execute(
        "INSERT INTO series_minutes SELECT p.id, date_trunc('minute', now()) - n * interval '1 minute', 'granted', 10 "
        "FROM pools p, generate_series(1, 125) AS n WHERE p.batch_id = $1", batch,
    )  # fmt: skip
    (before,) = (await api.get(f"/api/v1/batches/{batch}")).json()["stock"]
    assert (before["rate_per_s_1m"], before["rate_per_s_15m"], before["empty_at"]) == (None, None, None)
    await api.services.series.record()
    await api.owner.execute("DELETE FROM pool_rates")
    async with open_stores(settings_as(api.services.settings, Process.WORKER)) as stores:
        await refresh_rates(stores)
    (stock,) = (await api.get(f"/api/v1/batches/{batch}")).json()["stock"]
    assert stock["rate_per_s_15m"] == pytest.approx(10 / 60, abs=0.001)
    # What the present minute has of it depends on the second.
    assert 0 < stock["rate_per_s_1m"] < 0.2
    left_s = (datetime.fromisoformat(stock["empty_at"]) - datetime.now(UTC)).total_seconds()
    assert left_s == pytest.approx(99 / 10 * 60, rel=0.05)

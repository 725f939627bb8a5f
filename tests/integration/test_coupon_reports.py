"""Reports of coupons and of their uses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from issuer.coupons.coupon import Coupon, CouponTerms
from issuer.coupons.store import change_coupon, create_coupon, delete_coupon
from issuer.coupons.uses import consumption_id
from issuer.reports.report import BATCHES, CONSUMPTIONS, COUPONS, Filter
from issuer.storage.stores import Stores
from tests.support.report_formats import as_csv, as_json, as_workbook, rows_of

TERMS = CouponTerms(
    available=10, product_id="shirt", promo_type="=cmd()", discount_fixed=Decimal("5.00"), currency="EUR"
)


async def write_use(
    stores: Stores, coupon: Coupon, seq: int, *, customer: UUID | None = None, order: str | None = None, terms: int = 1
) -> str:
    """Write a row of the ledger; return the consumption id of the answer."""
    call_id = uuid4()
    await stores.postgres.execute(
        "INSERT INTO consumptions (pool_id, seq, terms, customer_id, order_id, consumed_at, call_id, key_hash,"
        " api_key_id, epoch) VALUES ($1, $2, $3, $4, $5, now(), $6, $7, 3, 1)",
        coupon.pool_id, seq, terms, customer, order, call_id, b"0123456789abcdef",
    )  # fmt: skip
    return consumption_id(coupon.pool_id, seq, call_id.hex)


async def test_every_use_is_reported_once_with_its_terms(stores: Stores) -> None:
    client, other, customer = uuid4(), uuid4(), uuid4()
    save = await create_coupon(stores, client, "Save-20", TERMS, actor="test")
    theirs = await create_coupon(stores, other, "THEIRS", TERMS, actor="test")
    use_id = await write_use(stores, save, 1, customer=customer, order="+4711")
    await change_coupon(stores, save, lambda _: {"discount_fixed": Decimal("7.5")}, actor="test")
    await write_use(stores, save, 2, terms=2)
    await write_use(stores, theirs, 1, customer=customer)
    await stores.postgres.execute("INSERT INTO reversals (pool_id, seq, actor) VALUES ($1, 2, 'test')", save.pool_id)

    first, second = await as_json(stores, CONSUMPTIONS, {Filter.CLIENT: client})
    known = {
        "consumption_id": use_id, "code": "Save-20", "seq": 1, "customer_id": str(customer), "order_id": "+4711",
        "api_key_id": 3,
    }  # fmt: skip
    assert {name: first[name] for name in known} == known
    assert first["idempotency_key_hash"] == b"0123456789abcdef".hex()
    worth = [(row["product_id"], row["discount_fixed"], row["currency"]) for row in (first, second)]
    assert worth == [("shirt", "5.00", "EUR"), ("shirt", "7.5", "EUR")]
    assert (first["reversed_at"], second["reversed_at"] is None) == (None, False)

    async def number(**values: Any) -> int:
        return len(await as_json(stores, CONSUMPTIONS, {Filter[name.upper()]: value for name, value in values.items()}))

    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert await number() == 3
    assert await number(code="sAVE 20") == 2
    assert await number(code="SAVE-2O") == await number(code="no such") == await number(code="\x7f") == 0
    assert await number(customer=customer) == 2
    assert await number(customer=customer, client=client) == 1
    assert await number(code="THEIRS", client=client) == 0
    assert await number(**{"from": now - hour, "to": now + hour}) == 3
    assert await number(to=now - hour) == 0
    order, kind = CONSUMPTIONS.columns.index("order_id"), CONSUMPTIONS.columns.index("promo_type")
    rows = await as_csv(stores, CONSUMPTIONS, {Filter.CODE: "save20"})
    assert [(row[order], row[kind]) for row in rows] == [("'+4711", "'=cmd()"), ("", "'=cmd()")]
    assert await as_workbook(rows_of(stores, CONSUMPTIONS), CONSUMPTIONS) == await as_json(stores, CONSUMPTIONS)


async def test_coupons_are_reported_with_their_counts(stores: Stores) -> None:
    client, other = uuid4(), uuid4()
    terms = replace(TERMS, discount_fixed=None, currency=None, discount_variable=Decimal("12.5"))
    save = await create_coupon(stores, client, "SAVE", terms, actor="test")
    deleted = await create_coupon(stores, client, "GONE", TERMS, actor="test")
    await create_coupon(stores, other, "THEIRS", TERMS, actor="test")
    await delete_coupon(stores, deleted, actor="test")
    for seq in (1, 2):
        await write_use(stores, save, seq)
    found = await as_json(stores, COUPONS, {Filter.CLIENT: client})
    assert [(row["code"], row["consumed"], row["expired"]) for row in found] == [("GONE", 0, True), ("SAVE", 2, False)]
    shown = found[1]
    assert {name: shown[name] for name in save.terms.to_json()} == save.terms.to_json()
    assert (shown["availability_count"], shown["discount_variable"], shown["discount_fixed"]) == (10, "12.5", None)
    assert [row["code"] for row in await as_json(stores, COUPONS, {Filter.CODE: " theirs"})] == ["THEIRS"]
    assert await as_json(stores, BATCHES) == []

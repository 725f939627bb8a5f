"""`issuer coupons`, with the answers and the audit entries of the HTTP routes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from issuer.access.audit import list_entries
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from tests.support.command import CommandInProcess
from tests.support.recording import drain


@pytest.fixture
def coupons(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandInProcess:
    return CommandInProcess(settings, tmp_path, monkeypatch, "coupons")


@pytest.mark.long
def test_a_coupon_is_created_used_changed_and_deleted(coupons: CommandInProcess, settings: Settings) -> None:
    client = str(uuid4())
    words = ("--client", client, "--availability-count", "2", "--discount-variable", "12.5", "--product-id", "shoe")
    made = coupons("create", "--code", "SAVE20", *words, "--rules", '{"maxpercustomer":1}', "--json").json
    assert (made["code"], made["availability_count"], made["remaining"]) == ("SAVE20", 2, 2)
    assert coupons("show", "save-20", "--json").json == made
    assert coupons("list", "--json").json == [made]
    assert coupons("list").out.splitlines()[1].split() == ["SAVE20", "valid", "2", "0", "-", "shoe", client]

    used = coupons("consume", "SAVE20", "--customer", "anna", "--product", "shoe", "--order", "A-1", "--json").json
    assert (used["consumed"], used["discount_variable"], used["code"]) == (True, "12.5", "SAVE20")
    for who, refusal in (
        (("--customer", "anna", "--product", "shoe"), "rule conditions not met"),
        (("--customer", "bob", "--product", "hat"), "wrong product"),
    ):
        refused = coupons("consume", "SAVE20", *who)
        assert (refused.status, refused.out, refused.err) == (1, "", f"error: {refusal}\n")
    key = ("--customer", "bob", "--product", "shoe", "--idempotency-key", "k1", "--json")
    assert coupons("consume", "SAVE20", *key).json == coupons("consume", "SAVE20", *key).json
    assert coupons("consume", "SAVE20", "--product", "shoe").err == "error: coupon used up\n"

    asyncio.run(_recorded(settings))
    reverse = CommandInProcess(settings, coupons.directory, coupons.monkeypatch, "consumptions", "reverse")
    assert reverse(used["consumption_id"], "--json").json["order_id"] == "A-1"
    assert reverse(used["consumption_id"]).err == "error: the consumption was reversed before\n"
    changed = coupons("update", "SAVE20", "--product-id", "", "--availability-count", "5", "--json").json
    assert (changed["product_id"], changed["remaining"], changed["rules"]) == (None, 4, made["rules"])
    assert coupons("delete", "SAVE20", "--json").json["deleted"] is True
    assert (coupons("list").out, coupons("list").err) == ("", "no coupons: see `issuer coupons create --help`\n")
    assert coupons("list", "--all").out.splitlines()[1].split()[:2] == ["SAVE20", "deleted"]
    assert asyncio.run(_actions(settings)) == ["coupon.create", "coupon.change", "coupon.delete"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("create", "--code", "A1"), "give --client, or set ISSUER_DEFAULT_CLIENT"),
        (("create", "--client", "CLIENT"), "availability_count is required"),
        (("create", "--client", "CLIENT", "--availability-count", "1", "--code-length", "1"), "code_length needs"),
        (("create", "--client", "CLIENT", "--availability-count", "1", "--rules", "{"), "JSON"),
        (("create", "--client", "unknown", "--availability-count", "1"), "issuer clients create unknown"),
        (("show", "NONE"), "no coupon found"),
        (("consume", "NONE"), "no coupon found"),
    ],
)
def test_invalid_input_exits_with_2_and_one_line(coupons: CommandInProcess, words: tuple[str, ...], what: str) -> None:
    done = coupons(*(str(uuid4()) if word == "CLIENT" else word for word in words))
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert what in done.err
    assert coupons.rows("coupons") == 0


async def _recorded(settings: Settings) -> None:
    async with open_stores(settings) as stores:
        await drain(stores)


async def _actions(settings: Settings) -> list[str]:
    async with open_stores(settings) as stores:
        return [entry.action for entry in reversed((await list_entries(stores.postgres)).items)]

"""`issuer campaigns`, run as processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import Command, CommandInProcess
from tests.support.issuing import LedgerShop, plain_client


@pytest.mark.long
async def test_a_campaign_is_created_listed_and_ended(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    issuer = Command(settings, tmp_path)
    words = ["--name", "Concert", "--total", "5", "--starts-at", "2999-01-01T00:00:00+01:00", "--json"]
    made: dict[str, Any] = (await issuer("campaigns", "create", *words, "--public", "--prefix", "K-")).json
    assert (made["state"], made["total"], made["issued"], made["public"]) == ("before", 5, 0, True)
    assert made["starts_at"] == "2998-12-31T23:00:00.000Z"
    assert made["code_format"]["prefix"] == "K-"
    codes = await stores.postgres.fetch("SELECT code FROM codes WHERE batch_id = $1", made["id"])
    assert {len(row["code"]) for row in codes} == {12}
    assert (await issuer("campaigns", "show", made["id"], "--json")).json == made
    assert f"page /c/{made['id']}" in (await issuer("campaigns", "show", made["id"])).out
    assert (await issuer("campaigns", "list", "--json")).json == [made]
    header, line = (await issuer("campaigns", "list")).out.splitlines()
    assert header.split() == ["id", "state", "starts", "issued", "total", "client", "name"]
    assert line.split() == [made["id"], "before", "2998-12-31", "23:00Z", "0", "5", made["client_id"], "Concert"]
    assert (await issuer("campaigns", "end", made["id"], "--json")).json["state"] == "ended"
    assert (await issuer("campaigns", "list", "--json")).json == []
    assert [one["id"] for one in (await issuer("campaigns", "list", "--all", "--json")).json] == [made["id"]]


@pytest.mark.long
def test_a_campaign_is_changed_by_its_name(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = CommandInProcess(settings, tmp_path, monkeypatch, "campaigns")
    made = issuer("create", "--name", "Concert", "--total", "5", "--starts-at", "2026-01-01T00:00:00Z", "--json").json
    empty = issuer("codes", "Concert")
    assert (empty.out, empty.err) == ("", "no codes were issued yet\n")
    assert issuer("pause", "Concert", "--json").json["state"] == "paused"
    assert issuer("resume", made["id"], "--json").json["state"] == "open"
    assert issuer("extend", "Concert", "--total", "7", "--json").json["total"] == 7
    refused = issuer("extend", "Concert", "--total", "6")
    assert (refused.status, refused.out) == (2, "")
    changed = issuer("change", "Concert", "--name", "Tour", "--public", "--json").json
    assert (changed["name"], changed["public"]) == ("Tour", True)
    assert issuer("show", "Concert").err == "error: no campaign found\n"

    asyncio.run(_issue(settings, made))
    codes = issuer("codes", "Tour", "--json").json
    assert [code["seq"] for code in codes] == [1, 2]
    assert issuer("codes", "Tour").out.splitlines()[1].split() == ["1", codes[0]["code"], "-"]
    issuer("create", "--name", "Tour", "--total", "1", "--starts-at", "2026-01-01T00:00:00Z")
    twins = issuer("end", "Tour")
    assert twins.status == 2
    assert made["id"] in twins.err


async def _issue(settings: Settings, campaign: dict[str, Any]) -> None:
    async with open_stores(settings) as stores:
        with plain_client(settings.redis_url.get_secret_value()) as client:
            LedgerShop(stores, client, UUID(campaign["id"]), {UUID(campaign["client_id"]): 1}).redeem(2)


@pytest.mark.long
async def test_invalid_options_are_refused_in_one_line(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    issuer = Command(settings, tmp_path)
    good = {"--name": "A", "--total": "5", "--starts-at": "2026-01-01T00:00:00Z"}
    for option, value, message in (
        ("--total", "0", "total must be 1 to 5,000,000"), ("--name", " ", "name must not be empty"),
        ("--starts-at", "soon", "--starts-at: not an ISO 8601 time"), ("--alphabet", "A", "code_format: alphabet"),
        ("--length", "1", "code_format: there are 30 codes"),
    ):  # fmt: skip
        words = [word for pair in (good | {option: value}).items() for word in pair]
        done = await issuer("campaigns", "create", *words)
        assert (done.status, done.out) == (2, "")
        assert message in done.err
    done = await issuer("campaigns", "show", str(uuid4()))
    assert (done.status, done.err) == (2, "error: no campaign found\n")
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 0

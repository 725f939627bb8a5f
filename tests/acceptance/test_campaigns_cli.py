"""`issuer campaigns`, run as processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import Command


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
    assert header.split() == ["id", "state", "starts", "issued", "total", "name"]
    assert line.split() == [made["id"], "before", "2998-12-31", "23:00Z", "0", "5", "Concert"]
    assert (await issuer("campaigns", "end", made["id"], "--json")).json["state"] == "ended"
    assert (await issuer("campaigns", "list", "--json")).json == []
    assert [one["id"] for one in (await issuer("campaigns", "list", "--all", "--json")).json] == [made["id"]]


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

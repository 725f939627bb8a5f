"""`issuer loyalty hooks`, from the creation of a hook to what has arrived at it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from issuer.access.secrets import new_key
from issuer.ids import parse_uuid
from issuer.loyalty.hooks.endpoint_store import find_endpoint
from issuer.loyalty.hooks.events import DataRequested, Delivery, ShopCustomer
from issuer.loyalty.hooks.inbox import store_delivery, store_unreadable
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import Command
from tests.support.points import CLIENT


@pytest.mark.long
async def test_an_operator_connects_a_shop(stores: Stores, settings: Settings, tmp_path: Path) -> None:
    await create_program(stores.postgres, CLIENT, "Tea club", parse_terms({}, "points"), actor="test")
    hooks = Command(settings, tmp_path, "loyalty", "hooks")
    keyless = await hooks("create", "Tea club", "woocommerce")
    assert (keyless.status, "issuer secrets new-key" in keyless.err) == (2, True)
    hooks.environment["ISSUER_SECRET_KEY"] = new_key()

    made = (await hooks("create", "Tea club", "woocommerce", "--json")).json
    shown = await hooks("create", "Tea club", "square", "--notification-url", "https://tea.example")
    url, secret = (line.split()[1] for line in shown.out.splitlines()[1:])
    assert url.startswith("https://tea.example/hooks/")
    rotated = await hooks("rotate", url.rpartition("/")[2], "--secret-from-stdin", "--json", stdin=b"key-of-square\n")
    assert (rotated.json["secret"], rotated.json["previous_until"] is None) == ("key-of-square", False)
    assert secret != "key-of-square"
    refusals = [
        (("create", "Tea club", "woocommerce"), "the program has a hook with the source woocommerce"),
        (("create", "Tea club", "etsy"), "kind must be one of"),
        (("rotate", "x"), "no hook found"),
        (("inbox", "Tea club", "--state", "lost"), "--state must be one of"),
        (("retry", "7"), "delivery 7 is not refused"),
        (("settle", "7"), "delivery 7 asks for nothing"),
    ]
    for done, what in zip(await asyncio.gather(*(hooks(*words) for words, _ in refusals)), refusals, strict=True):
        assert (done.status, what[1] in done.err) == (2, True), done

    hook_id = parse_uuid(made["id"])
    assert hook_id is not None
    endpoint = await find_endpoint(stores.postgres, hook_id)
    await store_unreadable(stores.postgres, endpoint, "1", "order.updated", "total must be an amount such as 12.50")
    asks = Delivery("2", "customers/data_request", (DataRequested(ShopCustomer(email="a@example.org")),))
    row = await store_delivery(stores.postgres, endpoint, asks)
    await stores.postgres.execute("UPDATE hook_inbox SET state = 'asks' WHERE id = $1", row)
    assert await store_delivery(stores.postgres, endpoint, asks) is None
    listed = await hooks("inbox", "Tea club")
    assert [word for line in listed.out.splitlines()[:0:-1] for word in line.split()
                                   if word in ("refused", "asks")] == ["refused", "asks"]  # fmt: skip
    assert "a@example.org" not in listed.out
    assert (await hooks("settle", str(row))).out == f"delivery {row} is settled\n"
    assert json.loads((await hooks("inbox", "Tea club", "--state", "asks", "--json")).out) == []
    assert (await hooks("revoke", made["id"])).out == f"hook {made['id']} is revoked\n"
    assert (await hooks("list", "Tea club")).out.splitlines()[1].split()[-1] == "revoked"

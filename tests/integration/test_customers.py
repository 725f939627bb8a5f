"""Customers whose id is a text: recorded once for each client, kept by every way into the ledger, and erased."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from issuer.journal.segments import Journal, Receipt
from issuer.ledger.dead_letters import retry_dead_letters
from issuer.ledger.erasure import Erasure, erase_customer
from issuer.recovery.replay import replay
from issuer.storage.postgres import Pool
from issuer.storage.stores import Stores
from tests.support.recording import ack_all, record, record_in_ledger, reject_all, shop_of

LONGEST = "夏" * 128


async def stored(postgres: Pool) -> list[tuple[UUID, str]]:
    rows = await postgres.fetch("SELECT client_id, text FROM customers ORDER BY text, client_id")
    return [(UUID(bytes=row["client_id"].bytes), row["text"]) for row in rows]


async def test_a_text_is_recorded_once_for_each_client_and_erased_for_good(stores: Stores) -> None:
    async with shop_of(stores, codes=(100, 100)) as shop:
        first, second = shop.pools
        for client_id in (first, first, second):
            shop.redeem(1, client_id=client_id, text="anna@example.org")
        shop.redeem(2, text=LONGEST)
        shop.redeem(1)
        columns = shop.columns()
        await record(shop)
        anna = [(client_id, "anna@example.org") for client_id in sorted((first, second))]
        assert await stored(stores.postgres) == [*anna, (first, LONGEST)]
        rows = await stores.postgres.fetch("SELECT customer_id FROM redemptions")
        of_anna = stores.identity("anna@example.org").uuid
        assert sum(row["customer_id"] == of_anna for row in rows) == 3

        assert await erase_customer(stores, of_anna, actor="test") == Erasure(3, 0, 1, 0, 0)
        assert await stored(stores.postgres) == [(first, LONGEST)]
        # The same events once more, with a new one: what is erased stays erased.
        shop.redeem(1, text="new")
        columns.append(next(shop.columns().redemptions()))
        assert (await record_in_ledger(shop, columns)).inserted == 1
        assert await stored(stores.postgres) == [(first, "new"), (first, LONGEST)]


async def test_dead_letters_and_receipts_keep_the_text(stores: Stores, tmp_path: Path) -> None:
    async with shop_of(stores) as shop:
        client_id = next(iter(shop.pools))
        shop.redeem(1, text="letter")
        await reject_all(shop)
        assert (await retry_dead_letters(stores.postgres)).resolved == 1
        assert await stored(stores.postgres) == [(client_id, "letter")]

        shop.redeem(1, text="receipt")
        entries: Any = shop.client.xrange(shop.keys.stream)
        ((_, fields),) = entries
        journal = Journal(tmp_path)
        journal.append([
            Receipt(int(fields[b"e"]), shop.number, int(fields[b"t"]), fields[b"c"].decode(), fields[b"d"])
        ])  # fmt: skip
        journal.close()
        ack_all(shop)
        async with stores.postgres.acquire() as connection:
            assert (await replay(connection, tmp_path)).inserted == 1
        assert await stored(stores.postgres) == [(client_id, "letter"), (client_id, "receipt")]

"""Customers whose id is a text: recorded with each redemption, whatever way it comes into the ledger, and erased."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from issuer.journal.journal import Journal
from issuer.journal.segments import Receipt
from issuer.ledger.dead_letters import retry_dead_letters
from issuer.ledger.erasure import Erasure, erase_customer
from issuer.registration.replay import replay
from issuer.storage.postgres import Pool
from issuer.storage.stores import Stores
from tests.support.recording import ack_all, record_in_ledger, reject_all, shop_of

LONGEST = "夏" * 128


async def stored(postgres: Pool) -> list[str]:
    rows = await postgres.fetch(
        "SELECT customer_text FROM redemptions WHERE customer_text IS NOT NULL ORDER BY pool_id, seq"
    )
    return [row["customer_text"] for row in rows]


async def tables_with(postgres: Pool, text: str) -> list[str]:
    """Return the tables that have the text in any column, in bytes too."""
    names = [
        row[0] for row in await postgres.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    ]
    shown = (text, text.encode().hex())
    query = "SELECT EXISTS (SELECT FROM {0} t WHERE position($1 IN t::text) > 0 OR position($2 IN t::text) > 0)"
    return [name for name in names if await postgres.fetchval(query.format(name), *shown)]


async def test_a_text_is_recorded_with_each_redemption_and_erased_for_good(stores: Stores) -> None:
    text = "anna@example.org"
    async with shop_of(stores, codes=(100, 100)) as shop:
        first, second = shop.pools
        for client_id in (first, first, second):
            shop.redeem(1, client_id=client_id, text=text)
        shop.redeem(2, text=LONGEST)
        shop.redeem(1)
        columns = shop.columns()
        # The first was a dead letter before it was recorded.
        await reject_all(shop)
        assert (await retry_dead_letters(stores.postgres, actor="test")).resolved == 6
        assert await stored(stores.postgres) == [text, text, LONGEST, LONGEST, text]
        assert await tables_with(stores.postgres, text) == ["dead_letters", "redemptions"]

        of_anna = stores.identity(text).uuid
        assert await erase_customer(stores, of_anna, actor="test") == Erasure(3, 0, 1, 0, 0)
        assert await tables_with(stores.postgres, text) == []
        # The same events once more, with a new one: what is erased stays erased.
        shop.redeem(1, text="new")
        columns.append(next(shop.columns().redemptions()))
        assert (await record_in_ledger(shop, columns)).inserted == 1
        assert await stored(stores.postgres) == [LONGEST, LONGEST, "new"]


async def test_dead_letters_and_receipts_keep_the_text(stores: Stores, tmp_path: Path) -> None:
    async with shop_of(stores) as shop:
        shop.redeem(1, text="letter")
        await reject_all(shop)
        assert (await retry_dead_letters(stores.postgres, actor="test")).resolved == 1
        assert await stored(stores.postgres) == ["letter"]

        shop.redeem(1, text="receipt")
        entries: Any = shop.client.xrange(shop.keys.stream)
        ((_, fields),) = entries
        journal = Journal(tmp_path, stores.incarnations.installation_id)
        journal.append([
            Receipt(
                int(fields[b"e"]), shop.number, int(fields[b"t"]), fields[b"c"].decode(), int(fields[b"s"]), 1,
                fields[b"d"],
            )
        ])  # fmt: skip
        journal.close()
        ack_all(shop)
        async with stores.postgres.acquire() as connection:
            assert (await replay(connection, journal.directory)).inserted == 1
        assert await stored(stores.postgres) == ["letter", "receipt"]

"""What an operator's word that Postgres was restored means for journals, void seqs and quarantines."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest

from issuer.contract.events import Redemption
from issuer.ledger.record import record_redemptions
from issuer.recovery.aftermath import finish_recoveries
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.postgres import close_pool, connect_pool
from tests.support.command import run_command
from tests.support.recovery import (
    blessed_again,
    crashing_engine_of,
    engine_of,
    kill_unheard,
    make_batch,
    redeem,
    seqs,
    verdict,
)
from tests.support.rollback import copy_tables, go_back
from tests.support.servers import RedisServer

pytestmark = pytest.mark.long


@pytest.mark.parametrize("options", [(), ("--restored",)])
async def test_a_journal_is_replayed_into_a_restored_postgres_only_as_such(
    journal_settings: Settings, options: Sequence[str]
) -> None:
    """No process runs, and Postgres has lost the registration whose token is in the journal."""
    assert journal_settings.journals is not None
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200)
        await copy_tables(stores.postgres)
        async with crashing_engine_of(journal_settings, stores) as engine:
            await redeem(engine, batch_id, 5)
    postgres = await connect_pool(journal_settings, size=1)
    await go_back(postgres)
    status, printed = await run_command(journal_settings, "journal", "replay", *options)
    incident = await postgres.fetchval("SELECT incident FROM installation")
    recorded = await postgres.fetchval("SELECT count(*) FROM redemptions")
    await close_pool(postgres)
    left = len(list(journal_settings.journals.glob("*/head")))
    if options:
        assert (status, incident, recorded, left, "5 recorded" in printed) == (0, None, 5, 0, True), printed
    else:
        assert (status != 0, recorded, left) == (True, 0, 1)
        assert "the receipt journals of" in incident
        assert incident in printed


async def test_no_void_seq_and_no_quarantine_is_released_behind_a_restored_postgres(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    """A later state of Postgres may have given their codes new seqs, under which they were issued."""
    async with open_stores(journal_settings) as stores:
        await make_batch(stores, 200)
        pool_id = await stores.postgres.fetchval("SELECT id FROM pools")
        event = Redemption(pool_id, 3, "CODE3", uuid.uuid4(), 1_700_000_000_000, uuid.uuid4(), None, 0, 1, 3)
        async with engine_of(journal_settings, stores), stores.postgres.acquire() as connection:
            await record_redemptions(connection, [event])
        own_redis.restart_empty()
        await blessed_again(stores)
        assert (await verdict(stores), await seqs(stores, "void_seqs")) == (Verdict.EXACT, [1, 2])
        await kill_unheard(stores)
        own_redis.restart_empty()
        await blessed_again(stores)
        assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.BOUNDED, list(range(4, 54)))
        await stores.guardian.check(RecoveryOptions(restored=True))
        quarantined = [1, 2, *range(4, 104)]
        assert (await seqs(stores, "void_seqs"), await seqs(stores, "quarantined")) == ([], quarantined)
        # By itself it would be released now.
        await stores.postgres.execute(
            "UPDATE registrations SET settled = '{}', settled_at = now() WHERE settled IS NULL"
        )
        await finish_recoveries(stores)
        assert await stores.postgres.fetchval("SELECT count(*) FROM quarantined WHERE released_at IS NULL") == 102
        assert await seqs(stores, "void_seqs") == []

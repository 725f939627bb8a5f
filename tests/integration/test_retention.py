"""docs/retention.md names every table, and the worker removes what the settings no longer keep."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from issuer.access.audit import list_entries
from issuer.access.audit_chain import read_head, verify
from issuer.ledger.dead_letters import DeadLetter, store_dead_letters
from issuer.ledger.erasure import erase_customer
from issuer.settings import Settings
from issuer.storage.stores import Stores
from issuer.storage.task_rows import TaskRows
from sync_worker.maintenance.tasks import MaintenanceTasks
from sync_worker.worker import WorkerProgress
from tests.support.audit_log import acts, age
from tests.support.sources import ROOT

FIRST_CELL = re.compile(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", re.MULTILINE)


def tables_of_the_page() -> list[str]:
    page = (ROOT / "docs" / "retention.md").read_text()
    section = page.partition("## Postgres\n")[2].partition("\n## ")[0]
    return [name for cell in FIRST_CELL.findall(section) for name in re.findall("`([a-z_]+)`", cell)]


async def test_each_table_has_one_row_in_the_page(stores: Stores) -> None:
    rows = await stores.postgres.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert sorted(tables_of_the_page()) == sorted(row["tablename"] for row in rows)


def test_each_retention_setting_is_in_the_page() -> None:
    page = (ROOT / "docs" / "retention.md").read_text()
    settings = [name for name in Settings.model_fields if "retention" in name]
    assert settings
    assert [name for name in settings if f"`ISSUER_{name.upper()}`" not in page] == []


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"audit_retention_days": 60, "dead_letter_retention_days": 7})


@pytest.fixture
def tasks(stores: Stores) -> MaintenanceTasks:
    return MaintenanceTasks(stores, TaskRows(stores), "worker", WorkerProgress())


async def letters(stores: Stores, count: int, customer: bytes = b"") -> None:
    async with stores.postgres.acquire() as connection:
        await store_dead_letters(
            connection, [DeadLetter(0, f"{n}-0", 1, None, None, "unreadable", [b"f", customer]) for n in range(count)]
        )


async def test_the_worker_removes_expired_entries_and_letters(stores: Stores, tasks: MaintenanceTasks) -> None:
    postgres = stores.postgres
    await acts(postgres, 3)
    await age(postgres, 2)
    await letters(stores, 5)
    await postgres.execute("UPDATE dead_letters SET resolved_at = now() - interval '8 days' WHERE id <= 2")
    await postgres.execute("UPDATE dead_letters SET resolved_at = now() - interval '6 days' WHERE id = 3")
    await postgres.execute("UPDATE dead_letters SET created_at = now() - interval '100 days'")
    await tasks.remove_expired()
    assert [entry.id for entry in (await list_entries(postgres)).items] == [4, 3]
    assert (await verify(postgres)).fault is None
    rows = await postgres.fetch("SELECT id FROM dead_letters ORDER BY id")
    # Resolved not long ago, or not at all.
    assert [row["id"] for row in rows] == [3, 4, 5]


async def test_expired_rows_are_removed_in_steps(
    stores: Stores, tasks: MaintenanceTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("issuer.access.audit_chain.BATCH_SIZE", 2)
    monkeypatch.setattr("sync_worker.maintenance.tasks.EXPIRED_BATCH_SIZE", 2)
    await acts(stores.postgres, 5)
    await age(stores.postgres, 5)
    await letters(stores, 5)
    await stores.postgres.execute("UPDATE dead_letters SET resolved_at = now() - interval '8 days'")
    await tasks.remove_expired()
    cuts = [entry.detail["entries"] for entry in (await list_entries(stores.postgres)).items]
    assert cuts == [1, 2, 2]
    assert await stores.postgres.fetchval("SELECT count(*) FROM dead_letters") == 0


async def test_nothing_is_removed_from_the_audit_log_by_default(stores: Stores) -> None:
    assert Settings().audit_retention_days is None


async def test_the_worker_logs_the_head_when_it_has_changed(stores: Stores, tasks: MaintenanceTasks) -> None:
    await acts(stores.postgres, 2)
    with capture_logs() as logged:
        await tasks.log_audit_head()
        await tasks.log_audit_head()
        await acts(stores.postgres, 1)
        await tasks.log_audit_head()
    assert [line["head"].partition(":")[0] for line in logged] == ["2", "3"]
    assert logged[-1]["head"] == str(await read_head(stores.postgres))


async def test_an_erasure_removes_resolved_letters_of_the_customer(stores: Stores) -> None:
    customer = uuid4()
    await letters(stores, 3, customer.bytes)
    await stores.postgres.execute("UPDATE dead_letters SET resolved_at = now() WHERE id <= 2")
    assert (await erase_customer(stores, customer, actor="test")).dead_letters == 1
    rows = await stores.postgres.fetch("SELECT id FROM dead_letters")
    assert [row["id"] for row in rows] == [3]

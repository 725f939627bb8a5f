"""Exactly the available uses: a crowd on four API processes, counted by customers and ledger."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from issuer.coupons.uses import parse_consumption_id
from tests.support.crowd import CrowdAnswer, Rush, UseWish, every_rush, issued_in, tally
from tests.support.programs import require
from tests.support.service import Service, crowd_of_all

pytestmark = pytest.mark.xdist_group("service")

USED_UP: Final = "409 coupon used up"


async def make(service: Service, code: str, uses: int, **fields: Any) -> uuid.UUID:
    """Create a coupon of a new client; return the client."""
    client_id = uuid.uuid4()
    form = {"code": code, "availability_count": str(uses), "client_id": str(client_id), **fields}
    async with httpx.AsyncClient() as http:
        made = await http.post(f"{service.url}/coupon/", data=form, headers={"Authorization": service.api_key})
    assert made.status_code == 201, made.text
    return client_id


async def ledger_of(service: Service, client_id: uuid.UUID, count: int) -> list[Any]:
    query = (
        "SELECT c.seq, c.customer_id, c.key_hash, c.call_id, c.pool_id FROM consumptions c"
        " JOIN pools p ON p.id = c.pool_id WHERE p.client_id = $1 ORDER BY c.seq"
    )
    async with asyncio.timeout(60):
        while len(rows := await service.sql(query, client_id)) < count:
            await asyncio.sleep(0.05)
    return rows


async def check(service: Service, client_id: uuid.UUID, answers: list[CrowdAnswer], uses: int) -> None:
    """Customers and ledger have every use once."""
    consumptions = issued_in(answers)
    assert len(consumptions) == len(set(consumptions)) == uses
    rows = await ledger_of(service, client_id, uses)
    assert [row["seq"] for row in rows] == list(range(1, uses + 1))
    by_seq = {row["seq"]: row for row in rows}
    for consumption in consumptions:
        name = parse_consumption_id(consumption)
        assert name is not None
        assert name.is_of(by_seq[name.seq]["call_id"].hex)
    assert f"issued {uses}" in await service.reconcile()


@every_rush
@pytest.mark.long
async def test_more_customers_than_uses_consume_each_use_once(service: Service, rush: Rush) -> None:
    client_id = await make(service, "SAVE-7000", rush.stock, discount_fixed="5.00")
    wishes = [UseWish(client_id, client_id, code="save7000") for _ in range(rush.requests)]
    async with crowd_of_all(service, rush.connections) as crowd:
        answers = await crowd.ask(wishes)
    assert tally(answers) == {"200": rush.stock, USED_UP: rush.refused}
    await check(service, client_id, answers, rush.stock)


@every_rush
@pytest.mark.long
async def test_repeated_keys_get_the_same_use_and_limits_hold(service: Service, rush: Rush) -> None:
    uses = rush.stock // 5
    client_id = await make(service, "TWICE", uses, rules='{"maxpercustomer": 1}')
    customers = [uuid.uuid4() for _ in range(2 * uses)]
    wishes = [
        UseWish(client_id, client_id, customer, key, "TWICE") for customer in customers for key in ("a", "a", "b")
    ]
    async with crowd_of_all(service, rush.connections) as crowd:
        answers = await crowd.ask(wishes)
        granted = [answer for answer in answers if answer.status == 200 and not answer.replayed]
        assert len(granted) == uses
        again = await crowd.ask(wishes)
    for at in range(0, len(wishes), 3):
        ids = {answer.text for answer in (*answers[at : at + 3], *again[at : at + 3]) if answer.status == 200}
        assert len(ids) <= 1, "one customer, one use"
    await check(service, client_id, granted, uses)


DOCS: Final = Path(__file__).parents[2] / "docs" / "http-api.md"


def test_the_shell_session_in_the_docs_succeeds(service: Service) -> None:
    """Run all its lines in one shell; none may fail."""
    require("curl")
    page = DOCS.read_text().partition("\n## Coupons\n")[2]
    session = page.partition("```sh\n")[2].partition("```")[0]
    assert session.count("curl ") == 9
    script = f"""
set -euo pipefail
curl() {{ command curl -sS --fail-with-body "$@"; echo; }}
URL={service.url} KEY={service.api_key} CLIENT={uuid.uuid4()}
{session}"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line]
    made, drawn, shown, valid, used, reversed_use, more, deleted = answers
    assert (made["code"], made["currency"], made["expiry_date"]) == ("SAVE-20", "EUR", "2099-01-16T00:00:00.000Z")
    assert (len(drawn["code"]), drawn["discount_fixed"], drawn["rules"]["maxpercustomer"]) == (10, "750", 1)
    assert (shown["remaining"], valid["valid"], valid["remaining"]) == (100, True, 100)
    assert (used["consumed"], used["discount_fixed"], used["discount_variable"]) == (True, "5.00", "10")
    assert (reversed_use["reversed"], more["remaining"], deleted["deleted"]) == (True, 199, True)

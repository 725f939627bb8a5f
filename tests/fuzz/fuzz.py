"""Play sessions against an API process and check what they leave: the ledger, the memory, a server that answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil

from issuer.settings import Settings
from tests.fuzz.client import Played, granted, play
from tests.fuzz.requests import COUPON, FuzzTarget
from tests.fuzz.sessions import make_session
from tests.support.api import UPLOAD
from tests.support.api_process import ApiProcess
from tests.support.keys import make_key
from tests.support.worker_process import record_everything

CONCURRENT: Final = 24
BATCH_SIZE: Final = 240
"""Sessions between two looks at the process."""
SHOWN: Final = 10
MAX_GROWTH_BYTES: Final = 8_000_000
"""How much more memory the process may have at the end than after the first half: less than 100 bytes per request of a
long run. A leak of one request's buffers is many times that."""


_TWICE: Final = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM redemptions GROUP BY batch_id, customer_id HAVING count(*) > 1) again),
  (SELECT count(*) FROM dead_letters) + (SELECT count(*) FROM anomalies)"""


@dataclass(slots=True)
class FuzzResult:
    """What a run found. `memory`: the process's resident bytes after each batch of sessions."""

    sessions: int = 0
    requests: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    granted: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """How many bytes the process grew in the second half of the run."""
        return self.memory[-1] - self.memory[len(self.memory) // 2]

    def __str__(self) -> str:
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(self.answers.items()))
        megabytes = [round(size / 1e6, 1) for size in self.memory]
        shown = [megabytes[0], megabytes[len(megabytes) // 2], megabytes[-1]] if megabytes else []
        return (
            f"{self.sessions} sessions, {self.requests} requests; answers {answers}; granted {dict(self.granted)},"
            f" recorded {dict(self.recorded)}; MB at start, half, end {shown}; {len(self.problems)} problems"
        )


def fuzz(settings: Settings, directory: Path, *, seed: int, requests: int) -> FuzzResult:
    """Send about this many requests to an API process of its own. `settings` name empty, migrated databases."""
    with ApiProcess(settings, directory, ISSUER_RECEIVE_TIMEOUT_S="4") as api:
        api.wait_until_ready()
        target = _prepare(settings, api.url, requests)
        result = FuzzResult()
        asyncio.run(_play_all(api, target, seed, requests, result))
        log = api.log.read_text(errors="replace")
    if "Traceback" in log:
        result.problems.append(f"the process logged a traceback:\n{log[log.index('Traceback') :][:4_000]}")
    record_everything(settings, directory / "worker")
    result.recorded = asyncio.run(_recorded(settings, target, result))
    if result.granted != result.recorded:
        result.problems.append(f"granted {dict(result.granted)}, recorded {dict(result.recorded)}")
    return result


def _prepare(settings: Settings, url: str, requests: int) -> FuzzTarget:
    key = asyncio.run(make_key(settings, "redeem", "admin"))
    headers = {"Authorization": f"Bearer {key}"}
    client = uuid4()
    with httpx.Client(base_url=url, headers=headers, timeout=120) as http:

        def batch(name: str) -> UUID:
            rows = "".join(f"{client},{name}-{number:07d}\n" for number in range(requests + 1_000))
            files = {"file": ("codes.csv", f"client_id,code\n{rows}")}
            response = http.post(UPLOAD, files=files, data={"batch_name": name})
            assert response.status_code == 200, response.text
            return UUID(response.json()["batch_id"])

        coupon = {"code": COUPON, "availability_count": 10**9, "client_id": str(client)}
        response = http.post("/coupon/", json=coupon)
        assert response.status_code == 201, response.text
        return FuzzTarget(key, client, batch("COUNTED"), batch("OTHER"))


async def _play_all(api: ApiProcess, target: FuzzTarget, seed: int, requests: int, result: FuzzResult) -> None:
    port = api.listener.getsockname()[1]
    process = psutil.Process(api.pid)
    places = asyncio.Semaphore(CONCURRENT)

    async def play_one(index: int) -> Played:
        async with places:
            return await play(port, make_session(seed, index, target))

    while result.requests < requests and len(result.problems) < SHOWN:
        first = result.sessions
        played = await asyncio.gather(*(play_one(index) for index in range(first, first + BATCH_SIZE)))
        for one in played:
            result.sessions += 1
            result.requests += one.session.requests
            result.answers.update(answer.status for answer in one.answers)
            result.problems += [f"session {one.session.seed}: {problem}" for problem in one.problems]
        result.granted += granted(played)
        async with httpx.AsyncClient(timeout=30) as http:
            # On a new connection: no session may have left the server unable to answer.
            live = await http.get(f"{api.url}/livez")
        if live.status_code != 200:
            result.problems.append(f"after session {result.sessions}: /livez answers {live.status_code}")
        result.memory.append(process.memory_info().rss)


async def _recorded(settings: Settings, target: FuzzTarget, result: FuzzResult) -> Counter[str]:
    """Return what the ledger has of the well-formed sessions, and check that no request was carried out twice."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        ((twice, faults),) = await connection.fetch(_TWICE)
        if twice or faults:
            result.problems.append(f"{twice} requests carried out twice, {faults} dead letters and anomalies")
        return Counter(
            redemption=await connection.fetchval(
                "SELECT count(*) FROM redemptions WHERE batch_id = $1", target.counted
            ),
            consumption=await connection.fetchval("SELECT count(*) FROM consumptions"),
        )
    finally:
        await connection.close()

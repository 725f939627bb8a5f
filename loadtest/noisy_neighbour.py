"""What one tenant notices of another one that does all it may, ``make noise``.

One tenant redeems, uploads and reads; its response times and errors are measured alone and while another tenant makes
the noise of `loadtest.noise`, in turn. Both reach one API process of `issuer up` with its defaults, on this machine:
the noise takes its share of the processors too, and so does the program that makes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx

from issuer.access.api_keys import create_key
from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.instants import EPOCH
from issuer.logs import configure_logs
from loadtest.bench import RESULTS, bench_directory, machine
from loadtest.drivers import REDEEM_PATH, Target
from loadtest.installation import BenchInstallation
from loadtest.noise import NoiseOptions
from loadtest.processes import python_module
from loadtest.stock import make_pool, settle

NOISE_ADDRESS: Final = "127.0.0.2"
NEIGHBOUR_ADDRESS: Final = "127.0.0.3"
REDEMPTIONS_PER_S: Final = 25
UPLOAD_ROWS: Final = 2_000
PATIENCE_S: Final = 20.0
"""How long the tenant waits for an answer."""
SETTLE_S: Final = 5.0
"""Time for the noise to reach its full strength."""


@dataclass(slots=True)
class Measurement:
    """Response times and answers of one kind of request."""

    times_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.times_s)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1_000, 1) if ordered else 0.0

    @property
    def errors(self) -> int:
        return sum(count for answer, count in self.answers.items() if not answer.startswith("2"))


@dataclass(frozen=True, slots=True)
class QuietTenant:
    """The tenant that is measured: it sends each kind of request at a fixed rate, whatever the answers take."""

    client: httpx.AsyncClient
    target: Target
    admin: dict[str, str]
    redeemer: dict[str, str]

    async def redeem(self) -> httpx.Response:
        body = {
            "batchid": str(self.target.batch_id),
            "clientid": str(self.target.client_id),
            "customerid": str(uuid4()),
        }
        return await self.client.post(REDEEM_PATH, json=body, headers=self.redeemer)

    async def upload(self) -> httpx.Response:
        name = uuid4().hex
        rows = "client_id,code\n" + "".join(
            f"{self.target.client_id},{name}-{number}\n" for number in range(UPLOAD_ROWS)
        )
        files, data = {"file": ("codes.csv", rows)}, {"batch_name": "Quiet"}
        return await self.client.post("/api/v1/codes/upload", files=files, data=data, headers=self.admin)

    async def read(self) -> httpx.Response:
        return await self.client.get(f"/api/v1/batches/{self.target.batch_id}", headers=self.admin)

    async def report(self) -> httpx.Response:
        return await self.client.get(
            "/api/v1/reports/redemptions", params={"to": "2000-01-01T00:00:00Z"}, headers=self.admin
        )

    async def measure(self, seconds: float) -> dict[str, Measurement]:
        kinds: list[tuple[str, float, Callable[[], Awaitable[httpx.Response]]]] = [
            ("redeem", REDEMPTIONS_PER_S, self.redeem), ("upload", 1, self.upload), ("read", 5, self.read),
            ("report", 1, self.report),
        ]  # fmt: skip
        found = {name: Measurement() for name, _, _ in kinds}
        async with asyncio.TaskGroup() as group:
            for name, per_s, send in kinds:
                group.create_task(_at_rate(per_s, seconds, send, found[name]))
        return found


async def _at_rate(
    per_s: float, seconds: float, send: Callable[[], Awaitable[httpx.Response]], measured: Measurement
) -> None:
    """Send at a fixed rate. Times count from when a request was due, so a stall is charged to all that it delays."""
    started = time.monotonic()

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = str((await send()).status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            answer = type(error).__name__
        measured.times_s.append(time.monotonic() - due)
        measured.answers[answer] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * seconds)):
            group.create_task(one(started + number / per_s))


@asynccontextmanager
async def noise_of(options: NoiseOptions, directory: Path) -> AsyncIterator[dict[str, Any]]:
    """Make noise for as long as the block lasts. What the tenant was answered is in the value afterwards."""
    file, answers = directory / "noise.json", {}  # type: tuple[Path, dict[str, Any]]
    file.write_text(json.dumps(asdict(options)))
    process = await asyncio.create_subprocess_exec(
        *python_module("loadtest.noise", str(file)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        await asyncio.sleep(SETTLE_S)
        yield answers
    finally:
        process.send_signal(signal.SIGTERM)
        output = (await process.stdout.read()).decode()
        await process.wait()
        answers.update(json.loads(output.partition("RESULT ")[2] or "{}"))


async def _keys(installation: BenchInstallation, client_id: UUID, *scopes: str) -> list[str]:
    async with installation.stores() as stores:
        return [
            (await create_key(stores.postgres, name=scope, scopes=[scope], client_id=client_id, actor="cli:bench"))[1]
            for scope in scopes
        ]


async def run(seconds: float, rounds: int, directory: Path) -> dict[str, Any]:
    """Measure and return the figures, which are printed as well."""
    environment = {"ISSUER_TRUSTED_PROXIES": "none"}
    with BenchInstallation(directory, environment=environment) as installation:
        async with installation.stores() as stores:
            loud, quiet = await make_pool(stores, 120_000, used=100_000), await make_pool(stores, 30_000)
            new = NewCampaign(name="Noise", total=1_000, starts_at=EPOCH, public=True, client_id=loud.client_id)
            campaign = await create_campaign(stores, new, actor="cli:bench")
            await settle(stores)
        address = urlsplit(installation.running.url)
        admin, redeem, public = await _keys(installation, loud.client_id, "admin", "redeem", "public")
        options = NoiseOptions(
            address.hostname or "", address.port or 0, NOISE_ADDRESS, admin, redeem, public, str(loud.batch_id),
            str(loud.client_id), str(campaign.id),
        )  # fmt: skip
        own_admin, own_redeem = await _keys(installation, quiet.client_id, "admin", "redeem")
        await asyncio.sleep(SETTLE_S)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        transport = httpx.AsyncHTTPTransport(local_address=NEIGHBOUR_ADDRESS, limits=limits)
        async with httpx.AsyncClient(base_url=installation.running.url, transport=transport, timeout=60) as client:
            tenant = QuietTenant(
                client, quiet, {"Authorization": f"Bearer {own_admin}"}, {"Authorization": f"Bearer {own_redeem}"}
            )
            await tenant.measure(2)
            results: dict[str, Any] = {"machine": machine(), "seconds": seconds, "rounds": []}
            for number in range(rounds):
                for case, noise in (("alone", nullcontext({})), ("beside noise", noise_of(options, directory))):
                    async with noise as answers:
                        measured = await tenant.measure(seconds)
                    results["rounds"].append({"case": case} | {name: _figures(one) for name, one in measured.items()})
                    _show(number, case, measured)
                results["rounds"][-1]["noise"] = answers
                for name, counts in answers.items():
                    print(f"    noise: {name:18} {counts}", flush=True)
    return results


def _figures(measured: Measurement) -> dict[str, Any]:
    return {
        "requests": len(measured.times_s), "p50_ms": measured.percentile_ms(50), "p99_ms": measured.percentile_ms(99),
        "errors": measured.errors, "answers": dict(measured.answers),
    }  # fmt: skip


def _show(number: int, case: str, measured: dict[str, Measurement]) -> None:
    for name, one in measured.items():
        print(
            f"  {number + 1} {case:13} {name:8} {len(one.times_s):6,} requests  p50 {one.percentile_ms(50):8.1f} ms"
            f"  p99 {one.percentile_ms(99):8.1f} ms  errors {one.errors} {dict(one.answers)}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.noisy_neighbour", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of a round, alone and beside the noise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for the report")
    options = parser.parse_args()
    configure_logs("error", name="noise")
    options.output.mkdir(parents=True, exist_ok=True)
    directory = bench_directory()
    try:
        results = asyncio.run(run(options.seconds, options.rounds, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    (options.output / "noise.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

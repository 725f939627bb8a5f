"""Load scenarios and benchmark against real installations: short runs that check what they measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from loadtest.drivers import BundledDriver, Driver, Load, Target, best_driver
from loadtest.floor import CODE
from loadtest.installation import BenchInstallation
from loadtest.measuring import Measured, MeasuredInstallation, UnexpectedAnswersError, measure, medians
from loadtest.processes import LoggedProgram, accepts, free_port, process_table, python_module
from loadtest.report import aims, markdown
from loadtest.scenarios.outcome import Kind, ScenarioResults, kind_of, tally
from loadtest.stock import make_pool, redeemed
from tests.support.environment import clean_environment
from tests.support.programs import require

ROOT = Path(__file__).parents[2]
LOCUST = ("--headless", "--users", "20", "--spawn-rate", "20", "--run-time", "6s", "--only-summary")


def locust(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *arguments]
    return subprocess.run(
        command, cwd=directory, env=clean_environment(**environment), capture_output=True, text=True, timeout=120
    )


@pytest.mark.long
def test_every_scenario_gets_only_expected_answers(tmp_path: Path) -> None:
    with BenchInstallation(tmp_path) as installation:
        done = locust(tmp_path, *LOCUST, ISSUER_DATA_DIR=str(installation.data_directory))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok  ")]
    assert [line[6:].partition(":")[0] for line in lines] == [
        "flash sale", "one customer hammering", "many batches", "retries with keys",
    ]  # fmt: skip
    assert "500 granted" in lines[0]
    assert ": 3 granted" in lines[1]


@pytest.mark.long
def test_a_load_without_an_issuer_explains_what_to_start(tmp_path: Path) -> None:
    done = locust(tmp_path, *LOCUST)
    assert done.returncode == 1
    assert "start `make up`" in done.stderr


def test_an_unexpected_answer_fails_the_run() -> None:
    results = ScenarioResults("sale", frozenset({Kind.GRANTED, Kind.SOLD_OUT}))
    assert results.add(kind_of(200, {}, {"code": "A"}))
    assert results.add_code("b", "A")
    assert not results.add_code("b", "A")
    assert not results.add(kind_of(503, {}, {"error": "overloaded", "code": "overloaded"}))
    text, good = tally([results])
    assert not good
    assert "unexpected: 503 overloaded" in text
    assert "a code was granted twice" in text
    assert "never: sold out" in text


def test_answers_are_classified_by_status_and_code() -> None:
    assert kind_of(200, {"Idempotency-Replayed": "true"}, {"code": "A"}) is Kind.REPLAYED
    assert kind_of(404, {}, {"error": "no code found", "code": "sold_out"}) is Kind.SOLD_OUT
    assert kind_of(404, {}, {"error": "no batch found", "code": "batch_not_found"}) == "404 no batch found"
    assert kind_of(502, {}, None) == "502, not a JSON object"


@pytest.fixture(params=["wrk", "bundled"])
def driver(request: pytest.FixtureRequest) -> Driver:
    if request.param == "bundled":
        return BundledDriver()
    require("wrk")
    return best_driver()


@pytest.mark.long
async def test_the_driver_counts_as_many_as_the_ledger(tmp_path: Path, driver: Driver) -> None:
    with BenchInstallation(tmp_path) as installation:
        server = MeasuredInstallation.of_installation(installation)
        async with installation.stores() as stores:
            target = await make_pool(stores, 100_000, used=1_000)
            load = Load(
                installation.redeem_url, [target], 1, connections=8, api_key=installation.api_key, keys=True
            )  # fmt: skip
            measured = await measure("redeem", driver, load, server)
            in_ledger = await redeemed(stores, [target]) - 1_000
        # A request without an answer at the end may have been executed.
        assert measured.requests <= in_ledger <= measured.requests + load.connections
        assert all(measured.cpu_us[role] > 0 for role in ("api", "redis", "worker", "postgres", "driver"))
        with pytest.raises(UnexpectedAnswersError):
            await measure(
                "unknown batch", driver, Load(load.url, [Target(uuid4(), uuid4())], 1, api_key=load.api_key), server
            )
        pids = [pid for role in measured.cpu_us if role != "driver" for pid in installation.pids(role)]
    assert not set(pids) & set(process_table())


async def test_the_baseline_server_answers_like_a_redemption(tmp_path: Path, driver: Driver) -> None:
    port = free_port()
    floor = LoggedProgram(python_module("loadtest.floor", "--port", str(port)), tmp_path / "floor.log")
    floor.start(lambda: accepts(port), "the floor")
    try:
        load = Load(f"http://127.0.0.1:{port}/", [Target(uuid4(), uuid4())], 1, connections=4)
        sent = await driver.send(load)
    finally:
        floor.stop()
    assert sent.granted == sent.requests > 0
    assert sent.socket_errors == 0
    assert len(CODE) == 20


def measured(case: str, per_s: float) -> Measured:
    cpu = {"api": 30.0, "redis": 9.0, "worker": 8.0, "postgres": 11.0, "driver": 7.0}
    return Measured(case, 1_000, per_s, 1.0, 0.1, 1.0, 2.0, 3.0, 4.0, cpu, 0.9, 0.0)


def test_the_report_shows_which_aims_are_met() -> None:
    rounds = [measured("redeem", rate) for rate in (9_000, 20_000, 22_000)]
    rounds += [measured("postgres way", 2_500), measured("floor", 40_000)]
    results = {
        "started_at": "now", "quick": True, "driver": "wrk", "versions": {"issuer": "1"}, "settings": {},
        "machine": {"cpus": 2, "cpu": "x", "memory_gib": 4.0, "system": "y"},
        "sections": {"headline": medians(rounds)}, "memory": {"code": 26.0},
    }  # fmt: skip
    found = {aim.name: aim.is_met for aim in aims(results)}
    assert found["redeem ÷ Postgres way"] is True
    assert found["redeem ÷ floor, one API process"] is False
    assert found["Redis bytes per preloaded code of 20 characters"] is False
    assert found["with Idempotency-Key ÷ without"] is None
    text = markdown(results)
    assert "| redeem | 20,000 | 9,000–22,000 |" in text
    assert "| redeem ÷ floor, one API process | 0.50 | ≥ 0.60 | no |" in text


@pytest.mark.long
def test_a_benchmark_section_runs_from_the_command_line(tmp_path: Path) -> None:
    command = python_module("loadtest.bench", "--quick", "--only", "memory", "--output", str(tmp_path / "results"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert 15 < results["memory"]["code"] < 40
    assert "bytes in Redis" in (tmp_path / "results" / "bench.md").read_text()

"""`issuer serve` as a process: several API processes on one address, replaced when killed, ended together."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from issuer.settings import Settings
from loadtest.processes import free_port
from tests.support.environment import environment_of
from tests.support.installation import gone, issuer_command
from tests.support.servers import wait_until


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return environment_of(settings)


class Serving:
    """An `issuer serve` with two processes."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        command = issuer_command("serve", "--port", self.url.rpartition(":")[2], "--workers", "2")
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthcheck", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def children(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children()
        return found


@pytest.fixture
def serving(environment: dict[str, str], tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(environment, tmp_path / "serve.log")
    try:
        wait_until(serving.answers, "the API answers", 60)
        wait_until(lambda: len(serving.children()) == 2, "both processes run", 60)
        yield serving
    finally:
        if serving.process.poll() is None:
            serving.process.send_signal(signal.SIGTERM)
            serving.process.wait(60)


@pytest.mark.long
def test_a_killed_process_is_replaced_the_address_stays_and_all_end_on_sigterm(serving: Serving) -> None:
    answer = httpx.get(f"{serving.url}/livez")
    assert answer.status_code == 200
    assert "server" not in answer.headers, "a response does not name the server"

    before = {child.pid for child in serving.children()}
    serving.children()[0].kill()
    wait_until(lambda: len({child.pid for child in serving.children()} - before) == 1, "a new process", 60)
    wait_until(serving.answers, "the API answers", 60)

    children = serving.children()
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(60) == 0
    assert gone(children)


@pytest.mark.long
def test_a_killed_parent_leaves_no_processes(serving: Serving) -> None:
    children = serving.children()
    serving.process.kill()
    serving.process.wait()
    wait_until(lambda: gone(children), "the API processes end", 60)


def test_each_invalid_setting_is_reported_in_one_line(environment: dict[str, str]) -> None:
    bad = environment | {"ISSUER_PARTITIONS": "many", "ISSUER_REDIS_URL": "http://:topsecret@x"}
    done = subprocess.run(issuer_command("serve"), env=bad, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 2
    assert "topsecret" not in done.stderr

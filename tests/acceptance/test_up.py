"""`issuer up --demo`: the quick start, restarts, and kills of parent and children."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from issuer.embedded.started import StartedInstallation, print_started
from issuer.settings import Settings
from tests.support.installation import Installation, gone, redeemed
from tests.support.programs import require
from tests.support.servers import wait_until


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """A data directory of this test's own; the test starts it."""
    installation = Installation(tmp_path)
    yield installation
    installation.__exit__(None, None, None)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running installation for the tests that leave it running."""
    with Installation(tmp_path_factory.mktemp("up")) as installation:
        yield installation


def test_the_printed_command_works_when_it_is_pasted(running: Installation) -> None:
    require("curl")
    done = subprocess.run(["bash", "-c", running.curl], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["code"].startswith("DEMO-")


def test_a_terminal_is_shown_the_api_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (False, True):
        link = "http://127.0.0.1:1/console/link/shown" if is_terminal else None
        started = StartedInstallation("http://127.0.0.1:1", "isk_shown", Path("/data/api-key"), None, link)
        monkeypatch.setattr(sys.stdout, "isatty", lambda shown=is_terminal: shown)
        print_started(started, Settings())
        printed = capsys.readouterr().out
        assert "/data/api-key" in printed
        assert ("isk_shown" in printed) == is_terminal
        assert ("console/link/shown" in printed, "issuer console-link" in printed) == (is_terminal, not is_terminal)
        assert "API documentation: http://127.0.0.1:1/docs" in printed


def test_issued_codes_are_logged_in_sums(running: Installation) -> None:
    first = redeemed(running)
    wait_until(lambda: '"event": "issued"' in running.logged, "the codes are logged", 60)
    lines = [json.loads(line) for line in running.logged.splitlines()]
    events = [line["event"] for line in lines]
    assert sum(line["codes"] for line in lines if line["event"] == "issued") > 0
    assert events.index("starting the servers") < events.index("migrating the database") < events.index("issued")
    assert not any(first in str(line) for line in lines)


@pytest.mark.long
def test_a_restart_continues_with_the_same_data(installation: Installation) -> None:
    installation.start()
    assert redeemed(installation) == "DEMO-0001"
    key = installation.api_key
    children = installation.children()
    assert len(children) >= 4
    assert installation.signal(signal.SIGTERM) == 0
    assert gone(children)

    assert installation.command("batches", "list").returncode == 1

    installation.start()
    assert installation.api_key == key
    assert redeemed(installation) == "DEMO-0002"
    assert installation.signal(signal.SIGINT) == 0
    assert "Traceback" not in installation.logged


def test_secrets_are_readable_by_their_owner_only(running: Installation) -> None:
    files = [path for path in running.data.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"api-key", "running.json"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert running.api_key not in running.logged
    assert running.api_key not in running.printed
    assert f"The API key is in {running.data / 'api-key'}" in running.printed
    sockets = [path for path in (running.data / "run").rglob("*") if path.is_socket()]
    for path in sockets:
        closed = stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert closed or stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0


@pytest.mark.long
def test_a_start_after_a_killed_parent_works_at_once_and_no_child_stays(installation: Installation) -> None:
    installation.start()
    first = redeemed(installation)
    children = installation.children()
    assert installation.signal(signal.SIGKILL) == -signal.SIGKILL
    installation.start()
    second = redeemed(installation)
    assert second != first
    wait_until(lambda: gone(children), "the children of a killed parent end", 60)

    children = installation.children()
    installation.signal(signal.SIGKILL)
    wait_until(lambda: gone(children), "the children of a killed parent end, with no start after it", 60)
    installation.start()
    assert redeemed(installation) not in (first, second)


def test_a_second_up_on_the_same_data_is_refused(running: Installation) -> None:
    done = running.command("up", "--port", "0")
    assert done.returncode == 1
    assert f"another `issuer up` (process {running.pid})" in done.stderr
    assert redeemed(running).startswith("DEMO-")


def test_a_used_port_is_reported_and_leaves_no_process(running: Installation, tmp_path: Path) -> None:
    port = running.url.rpartition(":")[2]
    other = running.command("up", "--data-dir", str(tmp_path / "other"), "--port", port)
    assert other.returncode == 1
    assert other.stderr.endswith(
        f"error: cannot listen on 127.0.0.1:{port}: another process listens there\n"
        'hint: choose another port: issuer up --port 9000, or make up ARGS="--port 9000"\n'
    )
    assert not (tmp_path / "other" / "redis" / "redis.pid").exists()


def test_the_status_is_that_of_the_installation(running: Installation) -> None:
    # An API process reports within a second.
    wait_until(lambda: running.command("status").returncode == 0, "everything runs", 60)
    shown = json.loads(running.command("status", "--json").stdout)
    assert (shown["ready"], shown["problems"]) == (True, [])
    assert shown["up"] == {"url": running.url, "pid": running.pid, "data_dir": str(running.data)}
    assert shown["open"] == {"batches": 1, "campaigns": 0, "coupons": 0}
    assert (len(shown["api_processes"]), len(shown["workers"])) == (1, 1)


@pytest.mark.long
def test_commands_in_a_second_terminal_find_the_installation(running: Installation) -> None:
    done = running.command("batches", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert "Demo" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", ["valkey-server", "postgres", "issuer.processes.api", "sync_worker"])
def test_a_killed_child_is_restarted(running: Installation, name: str) -> None:
    first, restarts = redeemed(running), running.logged.count("child works again")
    victim = next(
        child
        for child in running.children()
        if child.ppid() == running.pid and any(name in part for part in child.cmdline()[:4])
    )
    victim.kill()
    wait_until(lambda: running.logged.count("child works again") > restarts, "the child is replaced", 60)
    codes = [first]

    def works_again() -> bool:
        with suppress(httpx.TransportError):
            codes.append(redeemed(running))
        return codes[-1] not in ("", first)

    wait_until(works_again, "codes are redeemed again", 60)


@pytest.mark.long
def test_a_long_path_gets_short_sockets(tmp_path: Path) -> None:
    with Installation(tmp_path / ("long-" * 20) / ("name-" * 10)) as installation:
        assert not (installation.data / "run").exists()
        assert redeemed(installation)


@pytest.mark.long
def test_auth_can_be_turned_off(tmp_path: Path) -> None:
    with Installation(tmp_path, "--auth", "off", "--workers", "2") as installation:
        assert "API keys are off" in installation.printed
        assert "Authorization" not in installation.curl
        assert redeemed(installation)

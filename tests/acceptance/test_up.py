"""`issuer up --demo`: the quick start, restarts, and kills of parent and children."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import Installation, gone
from tests.support.servers import wait_until


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.__exit__(None, None, None)


def paste(line: str) -> str:
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def redeemed(installation: Installation) -> str:
    code = json.loads(paste(installation.curl))["code"]
    assert isinstance(code, str)
    return code


def test_a_restart_continues_with_the_same_data(installation: Installation) -> None:
    installation.start()
    assert redeemed(installation) == "DEMO-0001"
    key = installation.api_key
    children = installation.children()
    assert len(children) >= 4
    assert installation.signal(signal.SIGTERM) == 0
    assert gone(children)

    installation.start()
    assert installation.api_key == key
    assert redeemed(installation) == "DEMO-0002"
    assert installation.signal(signal.SIGINT) == 0
    assert "Traceback" not in installation.logged


def test_secrets_are_readable_by_their_owner_only(installation: Installation) -> None:
    installation.start()
    files = [path for path in installation.data.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"api-key", "running.json"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert installation.api_key not in installation.logged
    sockets = [path for path in (installation.data / "run").rglob("*") if path.is_socket()]
    for path in sockets:
        closed = stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert closed or stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0


def test_a_killed_parent_leaves_no_children_and_the_next_start_works(installation: Installation) -> None:
    installation.start()
    first = redeemed(installation)
    children = installation.children()
    assert installation.signal(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: gone(children), "the children of a killed parent end", 60)
    installation.start()
    assert redeemed(installation) != first


def test_the_next_start_need_not_wait_for_the_killed_one(installation: Installation) -> None:
    installation.start()
    first = redeemed(installation)
    installation.signal(signal.SIGKILL)
    installation.start()
    assert redeemed(installation) != first


def test_a_second_up_on_the_same_data_is_refused(installation: Installation) -> None:
    installation.start()
    done = installation.command("up", "--port", "0")
    assert done.returncode == 1
    assert f"another `issuer up` (process {installation.pid})" in done.stderr
    assert redeemed(installation)


def test_a_used_port_is_reported_and_leaves_no_process(installation: Installation, tmp_path: Path) -> None:
    installation.start()
    port = installation.url.rpartition(":")[2]
    other = installation.command("up", "--data-dir", str(tmp_path / "other"), "--port", port)
    assert other.returncode == 1
    assert f"127.0.0.1:{port}: another process listens there" in other.stderr
    assert not (tmp_path / "other" / "redis" / "redis.pid").exists()


@pytest.mark.parametrize("name", ["valkey-server", "postgres", "issuer.processes.api", "sync_worker"])
def test_a_killed_child_is_restarted(installation: Installation, name: str) -> None:
    installation.start()
    first = redeemed(installation)
    victim = next(
        child
        for child in installation.children()
        if child.ppid() == installation.pid and any(name in part for part in child.cmdline()[:4])
    )
    victim.kill()
    wait_until(lambda: "child works again" in installation.logged, "the child is replaced", 60)
    codes: list[str] = []

    def works_again() -> bool:
        codes.append(json.loads(paste(installation.curl)).get("code", ""))
        return bool(codes[-1]) and codes[-1] != first

    wait_until(works_again, "codes are redeemed again", 60)
    assert installation.signal(signal.SIGTERM) == 0


def test_commands_in_a_second_terminal_find_the_installation(installation: Installation) -> None:
    installation.start()
    done = installation.command("batches", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert "Demo" in done.stdout
    installation.signal(signal.SIGTERM)
    assert installation.command("batches", "list").returncode == 1


def test_a_long_path_gets_short_sockets(tmp_path: Path) -> None:
    with Installation(tmp_path / ("long-" * 20) / ("name-" * 10)) as installation:
        assert not (installation.data / "run").exists()
        assert redeemed(installation)


def test_auth_can_be_turned_off(tmp_path: Path) -> None:
    with Installation(tmp_path, "--auth", "off", "--workers", "2") as installation:
        assert "API keys are off" in installation.printed
        assert "Authorization" not in installation.curl
        assert redeemed(installation)

"""docker-compose.yml fulfils the promises that depend on configuration."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from issuer.contract import scripts

ROOT = Path(__file__).parents[2]


def services() -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found: dict[str, Any] = document["services"]
    return found


def test_services_have_health_checks_and_volumes() -> None:
    found = services()
    assert set(found) == {"redis", "postgres", "migrate", "cli", "issuer", "sync_worker"}
    assert all("healthcheck" in service for name, service in found.items() if name not in ("migrate", "cli"))
    assert found["redis"]["volumes"]
    assert found["postgres"]["volumes"]
    assert found["issuer"]["volumes"] == found["cli"]["volumes"] == found["sync_worker"]["volumes"]
    assert f"ISSUER_JOURNAL_DIR={found['issuer']['volumes'][0].partition(':')[2]}" in (ROOT / "Dockerfile").read_text()


def test_redis_is_durable_and_never_evicts() -> None:
    script = (ROOT / "deploy" / "compose" / "valkey.sh").read_text()
    for option in ("appendonly yes", "appendfsync always", "no-appendfsync-on-rewrite no", "save ''"):
        assert f"--{option} " in script
    assert "--maxmemory-policy noeviction" in script


def test_the_user_of_the_processes_may_run_every_command_of_the_scripts_and_the_worker() -> None:
    """A script runs with the rights of its caller. One that fails in the middle is not rolled back."""
    acl = (ROOT / "deploy" / "compose" / "valkey-users.acl").read_text()
    allowed = {word for word in acl.splitlines()[-1].split() if word.startswith("+")}
    called = {
        f"+{command.lower()}" + (f"|{of.lower()}" if command in ("XGROUP", "XINFO") else "")
        for script in scripts.ALL
        for command, of in re.findall(r"call\('([A-Z]+)'(?:, '([A-Z]+)')?", script.text)
    }
    reader = (ROOT / "sync_worker" / "reader.py").read_text()
    called |= {f"+{command.lower()}" for command in re.findall(r'"(X[A-Z]+)"', reader)}
    assert called - allowed == set()


def test_services_wait_for_the_migration() -> None:
    found = services()
    for name in ("issuer", "sync_worker", "cli"):
        assert found[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_ports_are_published_on_this_host_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert all(json.dumps(port).startswith('"127.0.0.1:') for port in published)


@pytest.mark.parametrize(
    "path",
    [".ci/run", "deploy/compose/secrets.sh", "deploy/terraform/linode/destroy.sh", "deploy/rehearsal/rehearse.sh"],
)
def test_scripts_are_executable(path: str) -> None:
    assert os.access(ROOT / path, os.X_OK)

"""deploy/cloud-init.yaml fits the program."""

from __future__ import annotations

import re

import pytest

from issuer.embedded.supervisor import SERVER_STOP_LIMIT_S, WORKER_STOP_LIMIT_S
from issuer.misspelt import unknown_variables
from issuer.settings import Settings
from tests.support.server_files import (
    CLOUD_INIT,
    cloud_config,
    unit,
    units,
    variables,
    written_files,
)

MAX_USER_DATA_BYTES = 16_384
"""The smallest limit among the providers (EC2)."""
SERVICES = sorted(name for name in units() if name.endswith(".service"))
"""Without drop-ins, which are files in directories."""


def test_the_file_is_small_enough_for_every_provider() -> None:
    assert CLOUD_INIT.read_text().startswith("#cloud-config\n")
    assert len(CLOUD_INIT.read_bytes()) < MAX_USER_DATA_BYTES


@pytest.mark.parametrize("name", SERVICES)
def test_no_unit_runs_as_root_or_gains_a_right(name: str) -> None:
    service = unit(name)["Service"]
    assert service["User"] in {user["name"] for user in cloud_config()["users"] if isinstance(user, dict)}
    assert (service["NoNewPrivileges"], service["CapabilityBoundingSet"]) == ("yes", "")
    assert (service["ProtectSystem"], service["ProtectHome"], service["PrivateDevices"]) == ("strict", "yes", "yes")
    # All run as one user: the end of one would remove the shared memory of Postgres.
    assert "RemoveIPC" not in service


def test_the_service_is_stopped_in_order_and_in_time() -> None:
    service = unit("issuer.service")["Service"]
    assert service["ExecStart"] == "/opt/issuer/bin/issuer up"
    # Postgres would otherwise get its signal before the API has answered what is in flight.
    assert service["KillMode"] == "mixed"
    needed_s = Settings().shutdown_timeout_s + WORKER_STOP_LIMIT_S + SERVER_STOP_LIMIT_S
    assert float(service["TimeoutStopSec"]) > needed_s
    assert service["Restart"] == "always"


def test_the_settings_exist_and_their_file_is_private() -> None:
    settings = variables("/etc/issuer/issuer.env")
    named = re.findall(r"(?m)^#?(ISSUER_\w+)=", written_files()["/etc/issuer/issuer.env"])
    assert len(named) > len(settings)
    assert unknown_variables(dict.fromkeys(named, "")) == []
    assert settings["ISSUER_DATA_DIR"].startswith(f"/var/lib/{unit('issuer.service')['Service']['StateDirectory']}/")
    (file,) = (file for file in cloud_config()["write_files"] if file["path"] == "/etc/issuer/issuer.env")
    assert file["permissions"] == "0600"


def test_what_is_started_is_installed_or_written() -> None:
    files = {file["path"]: file.get("permissions") for file in cloud_config()["write_files"]}
    started = {unit(name)["Service"]["ExecStart"].split()[0] for name in SERVICES} | {cloud_config()["runcmd"][0][0]}
    assert {path for path in started if path != "/opt/issuer/bin/issuer"} <= set(files)
    assert all(files[path] == "0755" for path in started & set(files))
    setup = written_files()["/usr/local/sbin/issuer-setup"]
    for name in units():
        if name.endswith(".timer") or name == "issuer.service":
            assert name.removesuffix(".service") in setup, name

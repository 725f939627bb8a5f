"""The programs of a server accept deploy/cloud-init.yaml: cloud-init, systemd, Caddy, the shell; and pulumi-linode the
arguments of deploy/terraform/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import require
from tests.support.server_files import CLOUD_INIT, ROOT, TERRAFORM, units, written_files

LIMIT_S = 120.0


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )


def test_cloud_init_accepts_the_file() -> None:
    done = run(require("cloud-init"), "schema", "--config-file", CLOUD_INIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid" in done.stdout
    assert "DEPRECAT" not in (done.stdout + done.stderr).upper()


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    systemd_analyze = require("systemd-analyze")
    for name, text in units().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        # It looks for the programs, which are not installed here.
        (tmp_path / name).write_text(text.replace("/opt/issuer/bin/issuer", "/bin/true").replace(
            "/usr/local/bin/issuer-check", "/bin/true"
        ))  # fmt: skip
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    done = run(systemd_analyze, "verify", "--man=no", *files)
    assert (done.returncode, done.stderr) == (0, "")
    for service in (path for path in files if path.suffix == ".service"):
        rated = run(systemd_analyze, "security", "--offline=true", "--no-pager", "--threshold=25", service)
        assert rated.returncode == 0, rated.stdout
    (tmp_path / "issuer.service.d" / "rights.conf").write_text("[Service]\nKillMod=mixed\n")
    assert "KillMod" in run(systemd_analyze, "verify", "--man=no", tmp_path / "issuer.service").stderr
    assert run(systemd_analyze, "security", "--offline=true", "--threshold=25", tmp_path / "issuer.service").returncode


def test_caddy_accepts_its_file(tmp_path: Path) -> None:
    (tmp_path / "Caddyfile").write_text(written_files()["/etc/caddy/Caddyfile"])
    caddy = Path(sys.prefix) / "bin" / "caddy"
    validate = (caddy, "validate", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile")
    places = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = run(*validate, DOMAIN="shop.example.org", **places)
    assert done.returncode == 0, done.stderr
    # Without the name it would answer for every name, without TLS.
    assert run(*validate, DOMAIN="", **places).returncode != 0


def test_the_shell_accepts_the_scripts() -> None:
    scripts = [text for text in written_files().values() if text.startswith("#!/bin/sh\n")]
    scripts.append((TERRAFORM / "destroy.sh").read_text())
    assert len(scripts) == 4
    for script in scripts:
        assert run("sh", "-n", "-c", script).stderr == ""
    for rehearsal in (ROOT / "deploy" / "rehearsal").iterdir():
        assert run("bash", "-n", rehearsal).stderr == ""
    wanting = run(TERRAFORM / "destroy.sh")
    assert (wanting.returncode, wanting.stderr.split(":")[0]) == (2, "usage")


@pytest.mark.long
@pytest.mark.minutes
def test_the_provider_has_the_resources_and_arguments(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    terraform = ROOT / "deploy" / "terraform"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", terraform / "requirements.txt"], check=True)
    right = run(python, terraform / "check.py", TERRAFORM)
    assert (right.returncode, right.stdout, right.stderr) == (0, "", "")

    wrong = tmp_path / "wrong"
    shutil.copytree(TERRAFORM, wrong)
    text = (wrong / "main.tf").read_text()
    for old, new in (
        ("backups_enabled", "backup_enabled"),
        ('ports    = "22"', "ports    = 22"),
        ("  region          = var.region\n", ""),
        (".ip_address", ".ip_adress"),
        ('resource "linode_domain_record"', 'resource "linode_dns_record"'),
    ):
        assert old in text
        text = text.replace(old, new)
    (wrong / "main.tf").write_text(text)
    found = run(python, terraform / "check.py", wrong)
    assert found.returncode == 1
    for problem in (
        "linode_instance has no argument backup_enabled",
        "linode_firewall.inbound.ports is",
        "linode_instance lacks region",
        "linode_instance has no attribute ip_adress",
        "there is no linode_dns_record",
    ):
        assert problem in found.stdout

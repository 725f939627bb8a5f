"""docker-compose accepts docker-compose.yml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.programs import require

ROOT = Path(__file__).parents[2]


def test_docker_compose_accepts_the_file() -> None:
    command = [str(require("docker-compose")), "-f", str(ROOT / "docker-compose.yml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr

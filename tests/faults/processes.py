"""The API and worker processes of a world. A scenario starts, kills and freezes them one by one."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from issuer.processes.launch import launch_command
from tests.support.servers import ServerProcess

_RUN_API: Final = (
    "from issuer.processes.api import listen, run_api; from issuer.settings import load_settings;"
    "settings = load_settings(); run_api(settings, listen(settings.host, settings.port))"
)


class FaultProgram(ServerProcess):
    """A process of the project with an environment of its own."""

    death_signal = signal.SIGKILL

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        super().__init__(directory)
        self.environment = environment

    def python(self, *argv: str) -> list[str]:
        assignments = [f"{name}={value}" for name, value in self.environment.items()]
        return launch_command(["/usr/bin/env", *assignments, sys.executable, *argv], death_signal=self.death_signal)

    def begin(self) -> None:
        """Start without waiting until the process is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


class FaultApiProcess(FaultProgram):
    """One API process, without a supervisor that restarts it."""

    name = "api"

    def command(self) -> list[str]:
        self.environment["ISSUER_PORT"] = str(self.port)
        return self.python("-c", _RUN_API)

    def get(self, path: str) -> int:
        """Return the status of a GET; 0 if there is no response."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def is_ready(self) -> bool:
        return self.get("/livez") == 200

    def can_redeem(self) -> bool:
        return self.get("/readyz") == 200


class FaultWorkerProcess(FaultProgram):
    """One sync worker."""

    name = "worker"

    def command(self) -> list[str]:
        return self.python("-m", "sync_worker")

    def is_ready(self) -> bool:
        return True

"""The API and worker processes of a world. A scenario starts, kills and freezes them one by one."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tests.support.environment import clean_environment
from tests.support.forked_processes import StartedProcess, start_program
from tests.support.servers import ServerProcess


class FaultProgram(ServerProcess):
    """A process of the project with an environment of its own."""

    module: str

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        super().__init__(directory)
        self.environment = environment

    def begin(self) -> None:
        """Start without waiting until the process is ready."""
        self.process = self.launch()

    def launch(self) -> StartedProcess:
        with self.log.open("ab") as log:
            return start_program(
                self.module, environment=clean_environment(**self.environment), output=log.fileno()
            )  # fmt: skip


class FaultApiProcess(FaultProgram):
    """One API process, without a supervisor that restarts it."""

    name = "api"
    module = "tests.faults.api_program"

    def launch(self) -> StartedProcess:
        self.environment["ISSUER_PORT"] = str(self.port)
        return super().launch()

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
    module = "sync_worker"

    def is_ready(self) -> bool:
        return True

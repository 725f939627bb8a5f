"""One API process as it runs in production: issuer.processes.api on a free port."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from issuer.processes.api import listen, url_of
from issuer.settings import Settings
from tests.support.environment import environment_of
from tests.support.forked_processes import StartedProcess, start_program
from tests.support.servers import STOP_LIMIT_S, wait_until


class ApiProcess:
    """Start it from the main thread. Ends with SIGTERM by its own process id; what it logged is in `log`."""

    def __init__(self, settings: Settings, directory: Path, **environment: str) -> None:
        self.listener: socket.socket = listen("127.0.0.1", 0)
        self.url = url_of(self.listener)
        self.log = directory / f"api-{self.listener.getsockname()[1]}.log"
        own = {"ISSUER_MAX_BACKLOG": str(settings.max_backlog), "ISSUER_AUTH": settings.auth.value}
        self.environment = environment_of(settings, **own | environment)
        self.process: StartedProcess | None = None

    def start(self) -> Self:
        descriptor = self.listener.fileno()
        with self.log.open("wb") as log:
            self.process = start_program(
                "issuer.processes.api", "--fd", str(descriptor),
                environment=self.environment, output=log.fileno(), descriptors=[descriptor],
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError("the API process is not running")
        return self.process.pid

    def wait_until_ready(self) -> Self:
        wait_until(self.is_ready, "the API process is ready")
        return self

    def is_ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"the API process ended:\n{self.log.read_text()[-4000:]}")
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_LIMIT_S)
            finally:
                self.process.kill()
                self.process.wait()
            self.process = None
        self.listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

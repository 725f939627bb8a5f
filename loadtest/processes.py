"""Start and stop the processes of a benchmark by their ids, and read their CPU time."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

START_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 30.0
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def free_port() -> int:
    """Return a port on which no process listens.

    The port is below the range from which the kernel takes the ports of outgoing connections: a server that is stopped
    and started again on the port finds it free.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Wait until the condition holds. Raises TimeoutError, whose message contains `what`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Return whether a GET of `url` returns 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class LoggedProgram:
    """A program started with a log file, stopped by SIGTERM and, after STOP_LIMIT_S, by SIGKILL."""

    def __init__(self, command: Sequence[str | Path], log: Path, *, environment: Mapping[str, str] | None = None):
        self.command = [str(part) for part in command]
        self.log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} is not running")
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def start(self, is_ready: Callable[[], bool], what: str) -> Self:
        """Start the program and wait until it is ready. Raises RuntimeError with its log if it exits first."""
        with self.log.open("ab") as log:
            # A process group of its own: Ctrl-C reaches only the benchmark, which then stops its programs in order.
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
                process_group=0,
            )  # fmt: skip
        wait_until(lambda: self.has_ended or is_ready(), what)
        if self.has_ended:
            raise RuntimeError(f"{what}: the program exited.\n{self.log.read_text(errors='replace')[-4000:]}")
        return self

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def python_module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """One line of the process table."""

    pid: int
    parent: int
    command: str
    cpu_s: float
    """User and system time, including that of exited children."""


def process_table() -> dict[int, ProcessEntry]:
    """Return all processes of this machine; nothing where there is no /proc.

    Children are read before their parents, so a process that exits meanwhile is counted by itself, by its parent or, in
    rare cases, by both, but never by neither.
    """
    table = {}
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: -int(path.name)):
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        pid = int(entry.name)
        cpu_s = sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_SECOND
        table[pid] = ProcessEntry(pid, int(fields[1]), command, cpu_s)
    return table


def family(table: Mapping[int, ProcessEntry], pid: int) -> list[ProcessEntry]:
    """Return a process and all its descendants."""
    found = [table[pid]] if pid in table else []
    for process in found:
        found.extend(child for child in table.values() if child.parent == process.pid)
    return found


def machine_cpu_s() -> dict[str, float]:
    """Return the CPU seconds of the machine since its start: busy, idle, and stolen by its host."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, idle, wait, irq, soft, steal = (int(field) / _TICKS_PER_SECOND for field in fields[:8])
    return {"busy": user + nice + system + irq + soft, "idle": idle + wait, "stolen": steal}


def accepts(port: int) -> bool:
    """Return whether a process on this machine listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

"""Processes of the program that are forked from one that has imported it.

Most of the time of a short process is that of its imports, and tests start hundreds of them. Here each still is a
process with an environment, a directory and files of its own, takes signals, and ends as any other does; only its
imports are done.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import issuer
import sync_worker
from tests.support.environment import clean_environment

LIMIT_S: Final = 120.0
_MAX_REQUEST: Final = 1 << 20
_MAX_FILES: Final = 8
_NOT_IMPORTED: Final = ("__main__", "env", "read_workbook")
"""Modules that do something when they are imported: the last one starts threads where numpy is installed."""


class ForkedProcess:
    """What subprocess.Popen is for a process that is executed. It is killed with the process that has started it."""

    def __init__(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], files: Mapping[int, int],
        directory: Path | None = None,
    ) -> None:  # fmt: skip
        """Run `python -m module` with these words. `files`: open files of this process, by their number in the new one.

        Numbers 0, 1 and 2 must be among them; there are no others.
        """
        self.returncode: int | None = None
        self._keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "module": module,
            "words": list(words),
            "environment": dict(environment),
            "directory": str(directory or Path.cwd()),
            "files": list(files),
        }
        self._keeper.settimeout(LIMIT_S)
        self._keeper.connect(_serving())
        socket.send_fds(self._keeper, [json.dumps(request).encode()], list(files.values()))
        self.pid = self._receive()

    def _receive(self) -> int:
        """Return what its keeper sends: the process id first, then the status."""
        received = self._keeper.recv(64)
        assert received, "the process that others are forked from has ended"
        return int(received)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ready, _, _ = select.select([self._keeper], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = self._receive()
            self._keeper.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        # Between the two it may end.
        with suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        self._keeper.close()


StartedProcess = subprocess.Popen[bytes] | ForkedProcess


def start_program(
    module: str, *words: str, environment: Mapping[str, str], output: int, error: int | None = None,
    descriptors: Sequence[int] = (), directory: Path | None = None,
) -> StartedProcess:  # fmt: skip
    """Start `python -m module` without an input, with these descriptors of this process under their numbers.

    A process whose environment changes how it is loaded, such as by failpoints in PYTHONPATH, is executed, not forked.
    """
    error = output if error is None else error
    if _loading(environment) == _loading(os.environ):
        with Path(os.devnull).open("rb") as nothing:
            files = {0: nothing.fileno(), 1: output, 2: error} | {number: number for number in descriptors}
            return ForkedProcess(module, words, environment, files, directory)
    return subprocess.Popen(
        [sys.executable, "-m", module, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=error,
        pass_fds=descriptors, env=environment, cwd=directory,
    )  # fmt: skip


def _loading(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LD_"))}


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


def run_command_forked(
    words: Sequence[str], environment: Mapping[str, str], directory: Path, stdin: bytes | None = None
) -> Done:
    """Run an `issuer` command to its end. Without `stdin` it reads from /dev/null."""
    with ExitStack() as opened:
        given, out, err = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin or b"")
        given.seek(0)
        source = given if stdin is not None else opened.enter_context(Path(os.devnull).open("rb"))
        files = {number: file.fileno() for number, file in enumerate((source, out, err))}
        process = ForkedProcess("issuer", words, environment, files, directory)
        try:
            status = process.wait(LIMIT_S)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return Done(status, out.read().decode(), err.read().decode())


def complete_command(
    words: Sequence[str], environment: Mapping[str, str], directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run an `issuer` command to its end, for callers that treat it as one that is executed."""
    done = run_command_forked(words, environment, directory)
    return subprocess.CompletedProcess(list(words), done.status, done.out, done.err)


@cache
def _serving() -> str:
    """Start the process that others are forked from, and return the path of its socket."""
    directory = tempfile.TemporaryDirectory(prefix="issuer-forked-")
    path = f"{directory.name}/socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    # It ends when this process does, however that ends: then its standard input does.
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forked_processes", str(listener.fileno())],
        stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=clean_environment(),
    )  # fmt: skip
    listener.close()

    @atexit.register
    def end() -> None:
        process.communicate()
        directory.cleanup()

    return path


def serve(listener: socket.socket) -> None:
    """Fork a process for each request. Returns when standard input ends, and in the process that was asked for."""
    for package in (issuer, sync_worker):
        for name in _modules(package):
            import_module(name)
    # A thread would be missing in every process that is forked from this one.
    assert len([*Path("/proc/self/task").iterdir()]) == 1
    # What is imported lives as long as a process: none of them looks at it again.
    gc.collect()
    gc.freeze()
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        _reap()
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _keep(connection)
            return
        connection.close()


def _reap() -> None:
    """Take the status of the keepers that have ended: the time of a process counts once its parent has done that."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _modules(package: ModuleType) -> Iterator[str]:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.rpartition(".")[2] not in _NOT_IMPORTED:
            yield module.name


def _keep(connection: socket.socket) -> None:
    """Fork the process, send its id and its status, and kill it when its reader ends. In the process, run it."""
    text, files, _, _ = socket.recv_fds(connection, _MAX_REQUEST, _MAX_FILES)
    request = json.loads(text)
    process = os.fork()
    if process == 0:
        connection.close()
        _place(files, request["files"])
        _run(request)
        return
    for file in files:
        os.close(file)
    connection.sendall(b"%d" % process)
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([ended, connection.fileno()], [], [])
    if ended not in ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with suppress(BrokenPipeError):
        connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _place(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Move open files to these numbers, in which others of them may be."""
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, max(numbers) + 1) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    module = request["module"]
    sys.argv[1:] = request["words"]
    if not hasattr(sys.modules.get(module), "__path__"):
        # It runs as a program, not as the module that others import.
        sys.modules.pop(module, None)
    # Raises SystemExit, as in any process of the program.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

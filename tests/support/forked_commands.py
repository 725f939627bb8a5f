"""`issuer` commands in processes that are forked from one that has imported the program.

Most of the time of a short command is that of its imports, and tests run hundreds of commands. Here each still is a
process with an environment, a directory and files of its own, and ends as any other does; only its imports are done.
"""

from __future__ import annotations

import atexit
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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import issuer
from tests.support.environment import clean_environment

LIMIT_S: Final = 120.0
_MAX_REQUEST: Final = 1 << 20
_NOT_IMPORTED: Final = ("__main__", "env")
"""Modules that do something when they are imported."""


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


def run_forked(words: tuple[str, ...], environment: Mapping[str, str], directory: Path, stdin: bytes | None) -> Done:
    """Run a command to its end. Without `stdin` it reads from /dev/null."""
    request = {"words": words, "environment": dict(environment), "directory": str(directory)}
    with (
        _connected() as connection,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        Path(os.devnull).open("rb") as nothing,
    ):
        given.write(stdin or b"")
        given.seek(0)
        files = (nothing if stdin is None else given, out, err)
        socket.send_fds(connection, [json.dumps(request).encode()], [file.fileno() for file in files])
        status = connection.recv(64)
        assert status, "the process that commands are forked from has ended"
        out.seek(0)
        err.seek(0)
        return Done(int(status), out.read().decode(), err.read().decode())


def _connected() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT_S)
    connection.connect(_serving())
    return connection


@cache
def _serving() -> str:
    """Start the process that commands are forked from, and return the path of its socket."""
    directory = tempfile.TemporaryDirectory(prefix="issuer-commands-")
    path = f"{directory.name}/socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    # It ends when this process does, however that ends: then its standard input does.
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forked_commands", str(listener.fileno())],
        stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=clean_environment(),
    )  # fmt: skip
    listener.close()

    @atexit.register
    def end() -> None:
        process.communicate()
        directory.cleanup()

    return path


def serve(listener: socket.socket) -> None:
    """Fork a process for each request. Returns when standard input ends, and in the process of a command."""
    for module in pkgutil.walk_packages(issuer.__path__, f"{issuer.__name__}."):
        if module.name.rpartition(".")[2] not in _NOT_IMPORTED:
            import_module(module.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(connection)
            return
        connection.close()


def _keep(connection: socket.socket) -> None:
    """Fork the command, wait for it and report its status; in the process of the command, run it."""
    text, files, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 3)
    command = os.fork()
    if command:
        _, status = os.waitpid(command, 0)
        connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    connection.close()
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    request = json.loads(text)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv[1:] = request["words"]
    # Raises SystemExit, as in the process of any command.
    runpy.run_module("issuer", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

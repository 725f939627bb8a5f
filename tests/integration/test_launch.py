"""A launched command keeps the process id, ends with its parent and runs as the given user."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from issuer.processes.launch import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, launch_command, needed_capabilities
from tests.support.servers import wait_until

# Starts `sleep` through the launcher, prints its process id and waits for its own end.
PARENT = """
import signal, subprocess, sys
from issuer.processes.launch import launch_command
command = launch_command(["sleep", "600"], death_signal=signal.SIGTERM)
command[4:4] = sys.argv[1:]
child = subprocess.Popen(command)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("watch", [[], ["--watch"]])
def test_ends_with_its_parent(watch: list[str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *watch], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    wait_until(lambda: child.name() == "sleep", "the command runs under the launcher's process id")
    assert os.getpgid(child.pid) == child.pid
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child ends")


def test_refuses_when_the_parent_has_ended_before() -> None:
    command = launch_command(["echo", "ran"], death_signal=signal.SIGTERM)
    command[command.index("--parent") + 1] = "1"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""


def _user(uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd(("other", "x", uid, uid, "", "/", "/bin/sh"))


def test_no_capability_where_every_user_may_pass() -> None:
    assert needed_capabilities(_user(54321), [Path("/usr/bin/env")]) == ()


def test_capability_only_for_what_is_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    executable = closed / "executable"
    executable.touch(mode=0o755)
    assert needed_capabilities(_user(54321), [executable]) == (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)
    executable.chmod(0o700)
    assert needed_capabilities(_user(54321), [executable]) == (CAP_DAC_OVERRIDE,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_user_passes_through_a_closed_directory(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("inside")
    # Postgres finds its own binaries with access(2).
    look = f"import os; print(os.getuid(), open('{closed}/file').read(), os.access('{closed}/file', os.R_OK))"
    command = launch_command(
        ["sh", "-c", f'{sys.executable} -c "{look}"; touch {closed}/new 2>&1'],
        death_signal=signal.SIGTERM,
        user="daemon",
        reach=[closed, Path(sys.executable)],
    )
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith(f"{pwd.getpwnam('daemon').pw_uid} inside True\n"), done
    assert not (closed / "new").exists()

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

from issuer.processes.launch import launch_command, reaches
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


def test_a_path_is_reached_if_every_directory_above_lets_the_user_pass(tmp_path: Path) -> None:
    assert reaches(_user(54321), Path("/usr/bin/env"))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not reaches(_user(54321), closed / "inside")


# Prints what the process may do, and what it reads in the directory that is its argument.
LOOK = """
import os, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(os.getuid(), *(status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")))
print(open(sys.argv[1] + "/file").read())
try:
    open("/etc/shadow")
except PermissionError:
    print("refused")
"""
NO_CAPABILITY = "0" * 16


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reaches_only_the_named_directory_and_has_no_capability(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    inside = closed / "inside"
    inside.mkdir(mode=0o755)
    (inside / "file").write_text("inside")
    command = launch_command(
        ["/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-c", LOOK, str(inside)],
        death_signal=signal.SIGTERM,
        user="daemon",
        directories=[inside],
    )
    done = subprocess.run(command, capture_output=True, text=True)
    daemon = str(pwd.getpwnam("daemon").pw_uid)
    assert done.stdout.split() == [daemon, *[NO_CAPABILITY] * 5, "1", "inside", "refused"], done.stderr


def test_no_command_can_gain_a_privilege() -> None:
    command = launch_command(["grep", "NoNewPrivs", "/proc/self/status"], death_signal=signal.SIGTERM)
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == ["NoNewPrivs:", "1"]

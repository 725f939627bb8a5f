"""Start a command so that it cannot outlive its parent and, when root starts it, runs as another user without rights.

Run it by its path, as ``python -I -S launch.py … -- command …``. It replaces itself with the command, which keeps the
process id. It is a script of its own because code between fork and exec is not safe in a process with threads. It
imports only the standard library, so it starts in about 20 ms.

Nothing that is started here can gain a privilege (no_new_privs). A command that root starts as another user has no
capability either, and cannot get one. That user often cannot enter the directories above the data (/root has mode
0700). Changed permissions would outlast this process and surprise their owner, so nothing on the disk changes: root
opens those directories beforehand, and the command reaches them through /proc/self/fd.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import signal
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
MAX_CAPABILITIES = 64


def launch_command(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    user: str | None = None,
    directories: Sequence[Path] = (),
) -> list[str]:
    """Return the command that runs `argv` as described above.

    The command receives `death_signal` when the thread that starts it ends, so start it from the main thread. (Other
    systems than Linux: within a second of the end of the process.) `user` is for root only. `directories` are those in
    `argv` that the user may enter, but perhaps not reach.

    The command gets its own process group: Ctrl-C in a terminal reaches the parent only, which then stops its children
    in order.
    """
    command = [sys.executable, "-I", "-S", __file__, "--death-signal", death_signal.name]
    command += ["--parent", str(os.getpid())]
    if sys.platform != "linux":
        command.append("--watch")
    if user is not None:
        command += ["--user", user, *(f"--directory={path.absolute()}" for path in directories)]
    return [*command, "--", *(str(part) for part in argv)]


def _prctl(*args: int) -> bool:
    padded = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:5]]
    return bool(ctypes.CDLL(None, use_errno=True).prctl(*padded) == 0)


def _passes(status: os.stat_result, user: pwd.struct_passwd) -> bool:
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def reaches(user: pwd.struct_passwd, path: Path) -> bool:
    """Whether the user may enter every directory above the path."""
    return all(_passes(directory.stat(), user) for directory in path.resolve().parents)


def through_descriptors(argv: Sequence[str], directories: Sequence[Path], user: pwd.struct_passwd) -> list[str]:
    """Open the directories that the user does not reach; return `argv` with the names of the descriptors for them."""
    changed = list(argv)
    # The longest first: one may be the beginning of another.
    for directory in sorted(directories, key=lambda path: -len(str(path))):
        if not reaches(user, directory):
            descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
            os.set_inheritable(descriptor, True)
            changed = [part.replace(str(directory), f"/proc/self/fd/{descriptor}") for part in changed]
    return changed


def _become(user: pwd.struct_passwd) -> None:
    if sys.platform == "linux":
        for capability in range(MAX_CAPABILITIES):
            # Fails for numbers that this kernel does not know, and where root has no CAP_SETPCAP.
            _prctl(PR_CAPBSET_DROP, capability)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if sys.platform == "linux":
        _clear_capabilities()
    os.environ.update(HOME="/", USER=user.pw_name, LOGNAME=user.pw_name)


def _clear_capabilities() -> None:
    """Clear the inheritable set, which a change of user keeps; the kernel has cleared the other sets."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise SystemExit("cannot drop the capabilities of root")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _watch(parent: int, number: signal.Signals) -> None:
    """Start a detached process that does what PR_SET_PDEATHSIG does on Linux."""
    child_pid = os.getpid()
    if (child := os.fork()) != 0:
        os.waitpid(child, 0)
        return
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    while _alive(child_pid):
        if not _alive(parent):
            os.kill(child_pid, number)
            break
        time.sleep(0.5)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--death-signal", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--user")
    parser.add_argument("--directory", type=Path, action="append", default=[])
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    argv: list[str] = options.argv
    if options.user is not None:
        user = pwd.getpwnam(options.user)
        if sys.platform == "linux":
            argv = through_descriptors(argv, options.directory, user)
        _become(user)
    os.setpgid(0, 0)
    number = signal.Signals[options.death_signal]
    if options.watch:
        _watch(options.parent, number)
    else:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        # After the change of user, which clears it. The parent may have ended before.
        _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != options.parent:
        raise SystemExit("parent is gone")
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()

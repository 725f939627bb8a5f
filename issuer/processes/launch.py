"""Start a command so that it cannot outlive its parent and, when root starts it, runs as another user.

Run it by its path, as ``python -I -S launch.py … -- command …``. It replaces itself with the command, which keeps the
process id. It is a script of its own because code between fork and exec is not safe in a process with threads. It
imports only the standard library, so it starts in about 20 ms.

Postgres refuses to run as root. Its user often cannot enter the directories above the data or the virtual environment
(/root has mode 0700). Changed permissions would outlast this process and surprise their owner, so nothing on the disk
changes: the command keeps one capability of root, to pass through directories, and only when it needs it.
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

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522


def launch_command(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    user: str | None = None,
    reach: Sequence[Path] = (),
) -> list[str]:
    """Return the command that runs `argv` as described above.

    The command receives `death_signal` when the thread that starts it ends, so start it from the main thread. (Other
    systems than Linux: within a second of the end of the process.) `user` is for root only. `reach` lists the files and
    directories that the user must be able to enter or execute.

    The command gets its own process group: Ctrl-C in a terminal reaches the parent only, which then stops its children
    in order.
    """
    command = [sys.executable, "-I", "-S", __file__, "--death-signal", death_signal.name]
    command += ["--parent", str(os.getpid())]
    if sys.platform != "linux":
        command.append("--watch")
    if user is not None:
        command += ["--user", user, *(f"--reach={path.absolute()}" for path in reach)]
    return [*command, "--", *(str(part) for part in argv)]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(*args: int) -> bool:
    padded = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:5]]
    return bool(_libc().prctl(*padded) == 0)


def _passes(status: os.stat_result, user: pwd.struct_passwd) -> bool:
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def needed_capabilities(user: pwd.struct_passwd, reach: Sequence[Path]) -> tuple[int, ...]:
    """Return the capabilities of which any one lets the user reach `reach`, weakest first; empty if none is needed."""
    if not all(_passes(path.stat(), user) for path in reach if path.is_file()):
        return (CAP_DAC_OVERRIDE,)
    for path in reach:
        resolved = path.resolve()
        above = (resolved, *resolved.parents) if resolved.is_dir() else tuple(resolved.parents)
        if not all(_passes(directory.stat(), user) for directory in above):
            return (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)
    return ()


def _set_capability(capability: int) -> bool:
    bits = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)
    if _libc().capset(header, data) != 0:
        return False
    return _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _become(user: pwd.struct_passwd, reach: Sequence[Path]) -> None:
    capabilities = needed_capabilities(user, reach) if sys.platform == "linux" else ()
    if capabilities:
        _prctl(PR_SET_KEEPCAPS, 1)
        # Without it access(2), with which Postgres finds its own binaries, ignores the capabilities of other users.
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if capabilities and not any(_set_capability(capability) for capability in capabilities):
        raise SystemExit(
            f"user {user.pw_name} cannot enter {', '.join(map(str, reach))} and root may not grant it here; "
            "start as an ordinary user, or from a directory that every user may enter"
        )
    os.environ.update(HOME="/", USER=user.pw_name, LOGNAME=user.pw_name)


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
    parser.add_argument("--reach", type=Path, action="append", default=[])
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    if options.user is not None:
        _become(pwd.getpwnam(options.user), options.reach)
    os.setpgid(0, 0)
    number = signal.Signals[options.death_signal]
    if options.watch:
        _watch(options.parent, number)
    else:
        # After the change of user, which clears it. The parent may have ended before.
        _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != options.parent:
        raise SystemExit("parent is gone")
    os.execvp(options.argv[0], options.argv)


if __name__ == "__main__":
    main()

"""The keeper: parent of all that a part of the lab starts, and its end.

QEMU is a daemon of its own and would outlive a tester that was killed: the keeper reads a pipe
whose other end only the tester holds, and at its end kills everything and removes the directory.
QEMU's orphans become the keeper's, which reaps them at once: libvirt waits for a process to be
reaped, and in a container that can take seconds or for ever.

It is run by its path, so that it needs neither the checkout's import path nor its directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_PR_SET_CHILD_SUBREAPER = 36
_COMMANDS = ("qemu", "libvirtd", "setpriv")


class Keeper:
    """A keeper of a directory, seen from the tester; it ends with :meth:`close` or the tester."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the tester, which then ends everything in its own order.
            start_new_session=True,
        )

    def start(self, command: list[str], environment: dict[str, str]) -> int:
        """Start a program, whose output goes to the file `output` of the directory.

        Return its pid.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps({"command": command, "environment": environment})
        print(request, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End whatever it started, and remove the directory."""
        # The end of its input is its own.
        self._process.communicate()


def lab_processes(directory: Path, argument: str = "") -> list[int]:
    """Return the pids of the daemon and the QEMUs that belong to a hypervisor's directory.

    With an argument (a guest's UUID, say): only those that have it on their command line.
    """
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _belongs(int(entry.name), directory, argument)
    ]


def signal_process(
    pid: int, number: signal.Signals, directory: Path, *, wait: float | None = 0
) -> bool:
    """Send a signal to a process of the hypervisor, and to no other that took over its number.

    Return whether it has ended, after at most `wait` seconds; None waits as long as it takes.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not _belongs(pid, directory):
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        end = select.poll()
        end.register(handle, select.POLLIN)
        return bool(end.poll(None if wait is None else wait * 1000))
    finally:
        os.close(handle)


def kill_processes(directory: Path) -> None:
    """Kill them, stopped ones too, and return when they have ended."""
    while pids := lab_processes(directory):
        for pid in pids:
            signal_process(pid, signal.SIGKILL, directory)
        for pid in pids:
            signal_process(pid, signal.SIGKILL, directory, wait=None)


def sweep(directory: Path) -> None:
    """Leave nothing of a hypervisor, even where its keeper was killed: no process, no file."""
    kill_processes(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _belongs(pid: int, directory: Path, argument: str = "") -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    # Not the thread's name: a child of the daemon has one of its own until it becomes QEMU.
    command = Path(os.fsdecode(arguments.split(b"\0")[0])).name
    return (
        command.startswith(_COMMANDS)
        and f"{directory}/".encode() in arguments
        and argument.encode() in arguments
    )


def main() -> None:
    """Start the daemons that standard input asks for, and sweep the directory at its end."""
    directory = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN, which the daemon would inherit.
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGCHLD, _reap)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Kept, because a Popen object that goes away looks for its child.
    started = []
    for line in sys.stdin:
        started.append(_start(json.loads(line), directory))
        print(started[-1].pid, flush=True)
    _end_descendants()
    sweep(directory)


def _start(request: dict[str, Any], directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "output").open("ab") as output:
        return subprocess.Popen(
            request["command"],
            env=request["environment"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _end_descendants() -> None:
    # By parentage, which has no gap while a process becomes another program; a number cannot
    # change hands before it is waited for here.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(ChildProcessError):
        while True:
            children = _children()
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0 if children else os.WNOHANG)


def _children() -> list[int]:
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name before it, in parentheses, may hold anything.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    children.append(int(entry.name))
    return children


def _reap(_number: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()

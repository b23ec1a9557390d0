"""Guests that many tests share, and proof that no test ended one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .guest import Guest

_CONSOLE_LINES = 15


class SharedGuests:
    """The QEMU processes of running guests that no test may end, stop or replace.

    A process is known by its pid and its start time: a pid alone can be used again.
    """

    def __init__(self) -> None:
        self._processes: dict[Guest, tuple[int, str]] = {}
        self._ended: list[str] = []

    def watch(self, guests: Iterable[Guest]) -> None:
        """Watch guests from now on; those that do not run are left out."""
        for guest in guests:
            if guest.spec.start:
                pid = guest.pid
                self._processes[guest] = pid, _running_since(pid)

    @property
    def ended(self) -> list[str]:
        """The names of those that were found not to run any more."""
        return self._ended

    def check(self) -> list[str]:
        """Return a report of each guest that has ended or was stopped since the last check."""
        reports = []
        for guest, (pid, started) in tuple(self._processes.items()):
            if _running_since(pid) != started:
                del self._processes[guest]
                self._ended.append(guest.name)
                reports.append(
                    f"shared guest {guest.name!r} (pid {pid}) does not run any more; "
                    + last_words(guest)
                )
        return reports


def last_words(guest: Guest) -> str:
    """Return the end of a guest's console and of its QEMU's log."""
    console = "\n".join(guest.console().splitlines()[-_CONSOLE_LINES:])
    log = guest.hypervisor.directory / f"cache/libvirt/qemu/log/{guest.name}.log"
    output = log.read_text(errors="replace")[-1000:] if log.exists() else ""
    return f"its console:\n{console}\nits QEMU's log:\n{output}"


def _running_since(pid: int) -> str:
    """Return the start time of a process, in clock ticks; empty if it ended or is stopped."""
    try:
        # The name before it, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZXTt" else fields[19]

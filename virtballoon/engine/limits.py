"""Which domains are held, how long they are waited for, and how many calls they may block."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from virtballoon.errors import Busy, BusyReason, Incoming
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.model.value import Value

#: libvirtd serves five calls of a connection at a time (``max_client_requests``); one stays free.
IN_FLIGHT: Final = 4
#: This many of them may be calls that a hung domain can block; one more if nothing else is left.
MAY_BLOCK: Final = IN_FLIGHT - 1
#: libvirtd has 20 workers (``max_workers``) for all its clients; this many may wait for hung
#: domains.
MOST_HUNG: Final = 12
#: A domain is waited for this long, from when its monitor or job lock was taken.
HOLD_SECONDS: Final = 2.0
#: A call that takes longer than this may be blocked. A chunk of domains takes some 10 ms.
LATE_SECONDS: Final = 0.3
#: How long to wait before a domain that is held is tried again.
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5)

_HINTS: Final = {
    BusyReason.MONITOR: "QEMU hangs, or is busy with another program's command",
    BusyReason.JOB: "try again when the job has ended; virsh domjobinfo may show it",
}


class Deadline:
    """When a host has had its time, by ``time.monotonic()``."""

    def __init__(self, at: float) -> None:
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline in this time."""
        return cls(time.monotonic() + seconds)

    @property
    def seconds_left(self) -> float:
        """The time that is left; below 0 when it has passed."""
        return self.at - time.monotonic()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Not count the time that the caller of a generator takes over what it got."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.at += time.monotonic() - began


class _Hold(Value):
    """What holds a domain, since when, and whether that uses one of the daemon's workers."""

    since: float
    is_job: bool
    is_hung: bool


class Limits:
    """What is known of the held domains of one host.

    Libvirt does not say since when a job holds a domain: that counts from when it was first seen,
    so that a program that reads a host again and again keeps its limits.
    """

    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}

    def note(self, uuid: str, control: Control, now: float) -> None:
        """Take in what holds a domain; times are by ``time.monotonic()``."""
        if control.free:
            # A job that libvirt does not show may hold it all the same.
            if (hold := self._holds.get(uuid)) and not hold.is_job:
                self.release(uuid)
        elif control.is_job:
            self.note_job(uuid, now)
        else:
            self._holds[uuid] = _Hold(
                since=now - control.seconds, is_job=False, is_hung=control.hangs
            )

    def note_job(self, uuid: str, now: float) -> None:
        """A job holds the domain, whether libvirt shows it or not."""
        hold = self._holds.get(uuid)
        if hold is None or not hold.is_job:
            self._holds[uuid] = _Hold(since=now, is_job=True, is_hung=False)

    def note_blocked(self, uuid: str, now: float) -> None:
        """The domain blocks a call of this process, which uses a worker."""
        hold = self._holds.get(uuid) or _Hold(since=now, is_job=False, is_hung=True)
        self._holds[uuid] = replace(hold, is_hung=True)

    def release(self, uuid: str) -> None:
        """Nothing holds the domain."""
        self._holds.pop(uuid, None)

    def is_hung(self, uuid: str) -> bool:
        """Whether a call waits for the domain's QEMU."""
        hold = self._holds.get(uuid)
        return hold is not None and hold.is_hung

    def may_block(self, uuids: Iterable[str]) -> bool:
        """Whether another call may be made that can be blocked, besides one for each of these."""
        hung = {uuid for uuid, hold in self._holds.items() if hold.is_hung}
        return len(hung.union(uuids)) < MOST_HUNG

    def next_try(self, uuid: str, attempts: int, now: float) -> float:
        """When to try a domain again, which is no later than it is given up."""
        at = now + RETRY_SECONDS[min(attempts, len(RETRY_SECONDS) - 1)]
        hold = self._holds.get(uuid)
        return at if hold is None else min(at, max(now, hold.since + HOLD_SECONDS))

    def expired(self, domain: Domain, now: float) -> Busy | None:
        """The error of a domain that has been held too long."""
        hold = self._holds.get(domain.uuid)
        if hold is None or now - hold.since < HOLD_SECONDS:
            return None
        return self.held(domain, now)

    def held(self, domain: Domain, now: float) -> Busy | None:
        """The error of a domain that is held, however long."""
        hold = self._holds.get(domain.uuid)
        if hold is None:
            return None
        seconds = f"{now - hold.since:.0f} s"
        if hold.is_job:
            message = f"a job has held the domain for at least {seconds}"
            return busy(domain, BusyReason.JOB, message)
        message = f"QEMU has not answered on its monitor for {seconds}"
        return busy(domain, BusyReason.MONITOR, message)


def busy(domain: Domain, reason: BusyReason, message: str) -> Busy:
    """The error of a domain that cannot be read or set now."""
    host, hint = domain.connection.uri, _HINTS.get(reason)
    return Busy(message, reason=reason, host=host, domain=domain.name, hint=hint)


def incoming(domain: Domain) -> Incoming:
    """The error of a domain that is being migrated to this host."""
    return Incoming(
        "it is being migrated to this host",
        reason=BusyReason.JOB,
        host=domain.connection.uri,
        domain=domain.name,
        hint="use the host that it comes from, or wait for the migration to end",
    )

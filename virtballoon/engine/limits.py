"""How many calls may be under way, and how long a domain is waited for."""

from __future__ import annotations

from typing import Final

from virtballoon.errors import Busy, BusyReason, Incoming
from virtballoon.hypervisor.connection import Domain

#: libvirtd serves five calls of a connection at a time (``max_client_requests``); one stays free.
IN_FLIGHT: Final = 4
#: libvirtd has 20 workers (``max_workers``) for all its clients; this many may wait for hung
#: domains.
MOST_HELD: Final = 12
#: A domain is waited for this long, from when its monitor or job lock was taken.
HOLD_SECONDS: Final = 2.0
#: A call that takes longer than this may be waiting for a domain that is held.
LATE_SECONDS: Final = 0.3


def busy(domain: Domain, reason: BusyReason, message: str) -> Busy:
    """The error of a domain that cannot be read or set now."""
    hint = {
        BusyReason.MONITOR: "QEMU hangs, or is busy with another program's command",
        BusyReason.JOB: "try again when the job has ended; virsh domjobinfo may show it",
        BusyReason.LIMIT: None,
    }[reason]
    return Busy(message, reason=reason, host=domain.connection.uri, domain=domain.name, hint=hint)


def monitor_busy(domain: Domain, seconds: float) -> Busy:
    """QEMU's monitor has been held for this time."""
    message = f"QEMU has not answered on its monitor for {seconds:.0f} s"
    return busy(domain, BusyReason.MONITOR, message)


def job_busy(domain: Domain, seconds: float) -> Busy:
    """A job has held the domain for this time or longer."""
    message = f"a job has held the domain for at least {seconds:.0f} s"
    return busy(domain, BusyReason.JOB, message)


def too_many_hung(domain: Domain) -> Busy:
    """No more calls may block."""
    message = "not asked, because too many calls to this host wait for hung domains"
    return busy(domain, BusyReason.LIMIT, message)


def timed_out(domain: Domain, seconds: float) -> Busy:
    """The time limit was reached without an answer and without a known holder."""
    return busy(domain, BusyReason.LIMIT, f"no answer within {seconds:.0f} s")


def incoming(domain: Domain) -> Incoming:
    """The domain is being migrated to this host."""
    return Incoming(
        "it is being migrated to this host",
        reason=BusyReason.JOB,
        host=domain.connection.uri,
        domain=domain.name,
        hint="use the host that it comes from, or wait for the migration to end",
    )

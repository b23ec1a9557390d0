"""Waits for the next update of domains.

A domain was updated when its last update differs from the one before. Neither this machine's clock
nor an age matters for that. Since a last update has whole seconds, an update in the same second as
the one before is not seen before the next one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, TypeAlias

from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.errors import VirtballoonError
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.device import BalloonDevice
from virtballoon.hypervisor.domain import Domain
from virtballoon.log import log_host
from virtballoon.model.outcome import DomainWait, HostWait, Waited
from virtballoon.model.report import DomainReport, Unheard
from virtballoon.model.source import Source
from virtballoon.model.verdict import Verdict, fresh_seconds
from virtballoon.operations.reading import chosen_domains, read_domains

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
#: The pause is this share of the time waited so far, and the last reading takes at most this share
#: of the pause: the daemon must not be kept busy by many domains or by a long wait.
_SHARE: Final = 1 / 8
#: A reading gets this time even where less is left.
_LEAST_SECONDS: Final = 2.0

#: Called with a host's URI and the names of its domains that are waited for; in any thread.
WaitCallback: TypeAlias = Callable[[str, Sequence[str]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A domain whose next update is waited for.

    :ivar id: libvirt's ID of the running domain; None for that of the first reading
    :ivar last_update: the update that does not count; None for that of the first reading
    :ivar since: by ``time.monotonic()``
    :ivar seconds: how long; None for twice its interval and 5 seconds
    :ivar even_unpolled: whether it is waited for although its interval is 0 by libvirt
    """

    domain: Domain
    id: int | None = None
    last_update: int | None = None
    since: float
    seconds: float | None = None
    even_unpolled: bool = False

    @classmethod
    def of(cls, domain: Domain, report: DomainReport, *, since: float, seconds: float) -> Watched:
        """A domain that has been read, polled by libvirt's word or not."""
        return cls(
            domain=domain,
            id=report.id,
            last_update=report.last_update or 0,
            since=since,
            seconds=seconds,
            even_unpolled=True,
        )

    @property
    def until(self) -> float:
        """Until when it is waited for, as far as that is known."""
        return self.since + (math.inf if self.seconds is None else self.seconds)

    def seen(self, report: DomainReport) -> Watched:
        """The same with what its first reading shows."""
        update, seconds = self.last_update, self.seconds
        return replace(
            self,
            id=report.id if self.id is None else self.id,
            last_update=report.last_update or 0 if update is None else update,
            seconds=fresh_seconds(report.interval.in_force or 0) if seconds is None else seconds,
        )

    def result(self, report: DomainReport, *, is_over: bool) -> Waited | None:
        """The result by the newest reading; None while it is still waited for."""
        if self.id is not None and report.id is not None and self.id != report.id:
            # Another QEMU: what was set in the one before does not apply to it.
            return self.missed(Unheard.RESTARTED)
        if self.last_update is not None and report.last_update not in {None, self.last_update}:
            return Waited(answered=True, seconds=time.monotonic() - self.since)
        # No update is to be expected of these, which is not a failure.
        is_quiet = report.verdict.was_read and not report.verdict.can_update
        if is_quiet or (report.verdict is Verdict.POLLING_OFF and not self.even_unpolled):
            return Waited(answered=None, reason=Unheard(report.verdict.value))
        if report.verdict is Verdict.BUSY:
            return self.missed(Unheard.BUSY)
        if report.verdict is Verdict.FAILED and report.last_update is None:
            return self.missed(Unheard.FAILED)
        return self.missed(Unheard.NO_ANSWER) if is_over else None

    def missed(self, reason: Unheard) -> Waited:
        """The result of a domain that was not updated."""
        return Waited(answered=False, seconds=time.monotonic() - self.since, reason=reason)


def wait_for_update(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    since: Mapping[str, int] | None = None,
    seconds: float | None = None,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    on_waiting: WaitCallback | None = None,
) -> HostWait:
    """Wait until each of a host's domains has other figures than now.

    Domains that cannot be updated are not waited for: those that are not polled, are suspended, do
    not run or have no balloon, and those whose QEMU hangs.

    :param since: by UUID, the last update, in epoch seconds, that does not count, where it was read
        before
    :param seconds: how long to wait; None for twice the interval and 5 seconds for each domain
    :param timeout: seconds for connecting and finding the domains; and for each reading, after
        which a domain that does not answer counts as busy
    """
    found: dict[str, DomainWait] = {}
    session = HostSession(target, domains, via=via, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
        now = time.monotonic()
        watched = [
            Watched(domain=domain, last_update=(since or {}).get(uuid), since=now, seconds=seconds)
            for uuid, domain in chosen_domains(session, inactive=False).items()
        ]
        batches = updates(session, watched, via=via, timeout=timeout, on_waiting=on_waiting)
        found.update((wait.uuid, wait) for wait in chain.from_iterable(batches))
    report = session.result(
        HostWait,
        complete=all(wait.waited.answered is not False for wait in found.values()),
        domains=tuple(sorted(found.values(), key=lambda wait: (wait.name, wait.uuid))),
    )
    return log_host(report, domains=len(found))


def last_update_of(balloon: BalloonDevice) -> int | None:
    """When a guest was last updated; 0 for never, None where that cannot be read."""
    with suppress(VirtballoonError):
        return balloon.figures().last_update
    return None


def updates(
    session: HostSession,
    watched: Iterable[Watched],
    *,
    via: Source,
    timeout: float | None = None,
    on_waiting: WaitCallback | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[list[DomainWait]]:
    """Read these domains again and again, and yield after each reading those that were updated and
    those that are waited for no longer.

    :param timeout: seconds for each reading; None for all of them by the session's deadline
    :param cancelled: ends the wait when it is set
    """
    left = {one.domain.uuid: one for one in watched}
    domains = {uuid: one.domain for uuid, one in left.items()}
    cancelled = cancelled or threading.Event()
    began = time.monotonic()
    while left and not cancelled.is_set():
        if on_waiting is not None:
            on_waiting(session.uri, sorted(one.domain.name for one in left.values()))
        reading = time.monotonic()
        if timeout is not None:
            rest = max(max(one.until for one in left.values()) - reading, _LEAST_SECONDS)
            session.deadline.at = reading + min(timeout, rest)
        found: list[DomainWait] = []
        unseen = set(left)
        try:
            for report in read_domains(session, domains, via=via):
                uuid = report.uuid
                unseen.discard(uuid)
                one = left[uuid] = left[uuid].seen(report)
                if waited := one.result(report, is_over=reading >= one.until):
                    found.append(
                        DomainWait(name=report.name, uuid=uuid, waited=waited, report=report)
                    )
        except VirtballoonError:
            yield found
            raise
        for one in (left[uuid] for uuid in unseen):
            waited, name = one.missed(Unheard.VANISHED), one.domain.name
            found.append(DomainWait(name=name, uuid=one.domain.uuid, waited=waited, report=None))
        for wait in found:
            del left[wait.uuid]
            domains.pop(wait.uuid, None)
        yield found
        if left:
            now = time.monotonic()
            pause = max(_FIRST_PAUSE_SECONDS, (now - began) * _SHARE, (now - reading) / _SHARE)
            soonest = min(one.until for one in left.values())
            cancelled.wait(max(0.0, min(pause, _LONGEST_PAUSE_SECONDS, soonest - now)))
    if on_waiting is not None:
        on_waiting(session.uri, [])

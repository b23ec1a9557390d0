"""Waits for guests to give new figures.

Whether a guest has answered is told by its last-update alone: it has another one than before. That
is the host's clock in whole seconds, so neither this machine's clock nor an age has any part in
it, and an answer within the same second as the one before goes unnoticed until the next comes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, TypeAlias

from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.errors import VirtballoonError
from virtballoon.hypervisor.connection import Domain, Target
from virtballoon.log import log_host
from virtballoon.model.outcome import DomainWait, HostWait, Waited
from virtballoon.model.report import DomainReport, Unheard
from virtballoon.model.source import Source
from virtballoon.model.verdict import GRACE_SECONDS, Verdict
from virtballoon.operations.reading import chosen_domains, read_domains

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
#: The pause is this share of the time waited so far, and the last reading takes at most this share
#: of the pause, so that neither many guests nor a long wait keep the daemon busy.
_SHARE: Final = 1 / 8
#: A reading gets this time even where that is more than is left.
_LEAST_SECONDS: Final = 2.0

#: What is told who is awaited: a host's URI and the names of its domains. It may be called in any
#: thread.
Onlooker: TypeAlias = Callable[[str, Sequence[str]], object]


def patience(interval: int) -> float:
    """How long an answer can take to come from a guest that is polled at this interval, in seconds:
    as long as its figures could be old without being stale."""
    return 2.0 * interval + GRACE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """A guest that is to answer.

    :ivar domain: the domain
    :ivar id: libvirt's number of the running domain, or None where that is not known
    :ivar last_update: the one that does not count; None for the first that is read
    :ivar since: from when on it is waited for, by ``time.monotonic()``
    """

    domain: Domain
    id: int | None = None
    last_update: int | None = None
    since: float

    def seen(self, row: DomainReport) -> Awaited:
        """The same with what its first row tells."""
        last_update = row.last_update or 0 if self.last_update is None else self.last_update
        return replace(self, last_update=last_update, id=row.id if self.id is None else self.id)


def read_last_update(domain: Domain, qom_path: str | None = None) -> int | None:
    """When a guest last gave figures; 0 for never, None where that cannot be told. May wait for
    the guest's QEMU.

    :param qom_path: where to ask QEMU, in place of libvirt
    """
    with suppress(VirtballoonError):
        if qom_path is not None:
            return domain.monitor().guest_stats(qom_path).last_update
        statistics = domain.connection.statistics([domain]).get(domain.uuid)
        figures = statistics.figures if statistics is not None else None
        return (figures or domain.figures()).last_update
    return None


def wait_for_update(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    since: Mapping[str, int] | None = None,
    seconds: float | None = None,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    note: Onlooker | None = None,
) -> HostWait:
    """Wait until each of a host's domains has given other figures than it has now.

    A domain from which nothing is to be expected is not waited for: one that is not polled, is
    suspended, does not run or has no balloon. Nor is one any longer whose QEMU hangs.

    :param target: a connection, which stays open; or a URI, or None for libvirt's default, to
        connect to: read-only, unless ``via`` is QOM
    :param domains: names, UUIDs and shell patterns; None for every running domain
    :param since: by UUID, the last update, in epoch seconds, that does not count: for those that
        have been read before whatever they are to react to
    :param seconds: how long to wait; None for each domain's :func:`patience`
    :param via: where the figures come from. QOM marks each running guest as tainted.
    :param timeout: seconds for connecting and finding the domains; and for each reading, after
        which a domain that does not answer counts as busy
    :param note: called, in this thread, with the host's URI and the names of those still awaited
    """
    found: dict[str, DomainWait] = {}
    session = HostSession(target, domains, via=via, readonly=via is Source.LIBVIRT, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
        now = time.monotonic()
        awaited = [
            Awaited(domain=domain, last_update=(since or {}).get(uuid), since=now)
            for uuid, domain in chosen_domains(session, inactive=False).items()
        ]
        heard = answers(session, awaited, seconds=seconds, via=via, timeout=timeout, note=note)
        found.update((answer.uuid, answer) for answer in chain.from_iterable(heard))
    report = session.result(
        HostWait,
        complete=all(wait.waited.answered is not False for wait in found.values()),
        domains=tuple(sorted(found.values(), key=lambda wait: (wait.name, wait.uuid))),
    )
    return log_host(report, domains=len(found))


def answers(
    session: HostSession,
    awaited: Iterable[Awaited],
    *,
    seconds: float | None,
    via: Source,
    timeout: float,
    note: Onlooker | None = None,
) -> Iterator[list[DomainWait]]:
    """Read them again and again, and yield after each reading what has become known.

    :param seconds: how long to wait for each; None for its :func:`patience`
    :param timeout: seconds for each reading
    :raise ConnectionLost: when the connection breaks for good, after all have been yielded
    """
    left = {one.domain.uuid: one for one in awaited}
    patient = seconds if seconds is not None else math.inf
    until = {uuid: one.since + patient for uuid, one in left.items()}
    meant = {uuid: one.domain for uuid, one in left.items()}
    began = time.monotonic()
    while left:
        if note is not None:
            note(session.uri, sorted(one.domain.name for one in left.values()))
        reading = time.monotonic()
        session.deadline.at = reading + min(
            timeout, max(max(until.values()) - reading, _LEAST_SECONDS)
        )
        found: list[DomainWait] = []
        unseen = set(left)
        try:
            for row in read_domains(session, meant, via=via):
                unseen.discard(row.uuid)
                one = left[row.uuid]
                if until[row.uuid] == math.inf:
                    until[row.uuid] = one.since + patience(row.interval.in_force or 0)
                answer = _judged(one, row, is_over=reading >= until[row.uuid])
                if answer is not None:
                    found.append(answer)
                else:
                    left[row.uuid] = one.seen(row)
        except VirtballoonError:
            yield found
            raise
        found += [_missed(left[uuid], Unheard.VANISHED, None) for uuid in unseen]
        for answer in found:
            del left[answer.uuid], until[answer.uuid]
            meant.pop(answer.uuid, None)
        yield found
        if left:
            now = time.monotonic()
            pause = max(_FIRST_PAUSE_SECONDS, (now - began) * _SHARE, (now - reading) / _SHARE)
            rest = min(until.values()) - now
            time.sleep(max(0.0, min(pause, _LONGEST_PAUSE_SECONDS, rest)))
    if note is not None:
        note(session.uri, [])


def _judged(one: Awaited, row: DomainReport, *, is_over: bool) -> DomainWait | None:
    """What became of a guest, by its newest row; None while it is still awaited."""
    if one.id is not None and row.id is not None and one.id != row.id:
        # Another QEMU: what was set in the one before is gone with it.
        return _missed(one, Unheard.RESTARTED, row)
    if one.last_update is not None and row.last_update not in {None, one.last_update}:
        waited = Waited(answered=True, seconds=time.monotonic() - one.since)
        return DomainWait(name=row.name, uuid=row.uuid, waited=waited, report=row)
    is_quiet = row.verdict.was_read and not row.verdict.can_update
    if is_quiet or row.verdict is Verdict.POLLING_OFF:
        waited = Waited(answered=None, reason=Unheard(row.verdict.value))
        return DomainWait(name=row.name, uuid=row.uuid, waited=waited, report=row)
    if row.verdict is Verdict.BUSY:
        return _missed(one, Unheard.BUSY, row)
    if row.verdict is Verdict.FAILED and row.last_update is None:
        return _missed(one, Unheard.FAILED, row)
    return _missed(one, Unheard.NO_ANSWER, row) if is_over else None


def _missed(one: Awaited, reason: Unheard, row: DomainReport | None) -> DomainWait:
    waited = Waited(answered=False, seconds=time.monotonic() - one.since, reason=reason)
    name = row.name if row is not None else one.domain.name
    return DomainWait(name=name, uuid=one.domain.uuid, waited=waited, report=row)
